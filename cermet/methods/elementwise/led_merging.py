from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import Kth, Need, PerModel, method
from cermet.maths.select import Cutoff, kept_mask


def _scores(
    deltas: Float[torch.Tensor, "models *block"],
    *,
    score: Float[torch.Tensor, "models *block"],
    base_score: Float[torch.Tensor, "models *block"],
) -> Float[torch.Tensor, "rows *block"]:
    """The scores of all experts, then those of the base on their tasks."""
    return torch.cat((score, base_score))


def _largest(*, density: PerModel, numel: int) -> list[list[int]]:
    return [[int(d * numel)] for d in (*density, *density)]


@method(
    on="deltas",
    source="arXiv:2502.16770",
    needs=(
        Need("score", "importance of the expert's weights on its own task"),
        Need("base_score", "importance of the base's weights on the task of the expert"),
    ),
    rounds=[Kth("cutoff", of=_scores, rank=_largest)],
    workspace=4.1,
    properties=("permutation", "homogeneous", "odd"),
)
def led_merging(
    deltas: Float[torch.Tensor, "models *block"],
    *,
    score: Float[torch.Tensor, "models *block"],
    base_score: Float[torch.Tensor, "models *block"],
    cutoff: Cutoff,
    weight: PerModel = (1.0,),
    density: PerModel = (0.4,),
) -> Float[torch.Tensor, "*block"]:
    """Keep of each expert what matters to it and to the base, and to no other expert.

    Maths       top(S, r): entries of a tensor above the ⌊rn⌋-th largest of its n scores;
                eᵢ = top(Sᵢ, rᵢ) ∩ top(S₀ᵢ, rᵢ);  mᵢ = eᵢ without the e of all other experts;
                θ = θ₀ + Σ wᵢmᵢτᵢ
    Inputs      deltas: expert minus base. Statistics: score, Sᵢ, and base_score, S₀ᵢ, of expert and
                base on the expert's task, such as |θ · gradient of the loss| summed over examples
    Parameters  weight: factor of each model. density: rᵢ, share of a tensor that is a candidate;
                0.1, 0.4 and 0.5 for a safety, a math and a code expert in the authors' runs
    Properties  model order does not matter; no entry is changed by two experts: where both elect
                it, it stays at the base
    When        experts whose skills undo each other, such as a safety-tuned one and a coder
    Example     >>> merge("led_merging", [0.0] * 4, [[1, 2, 3, 4], [5, 6, 7, 8]], density=0.75,
                ...       needs={"score": [[9, 8, 1, 0], [0, 9, 8, 1]], "base_score": [4, 3, 2, 1]})
                [1.0, 0.0, 0.0, 0.0]
    Departures  The scores are given, not computed. An expert's own entries must pass its threshold,
                those that it takes from the others may equal it, as in the authors' code. density
                1 elects everything, one that elects nothing of a small tensor leaves it at the
                base; the authors' code keeps one entry less, or nearly all.
    """
    count = len(deltas)
    merged, owners = torch.zeros_like(deltas[0]), torch.zeros_like(deltas[0])
    for i, delta in enumerate(deltas):
        for cut, strict in ((cutoff.with_ties(), False), (cutoff.without_ties(), True)):
            elected = kept_mask(score[i], cut, i)
            elected.mul_(kept_mask(base_score[i], cut, count + i))
            if strict:
                merged.add_(elected.mul_(delta), alpha=weight[i])
            else:
                owners.add_(elected)
    return merged.mul_(owners.eq_(1.0))
