from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import PerModel, method
from cermet.maths.combine import consensus
from cermet.maths.lowered import Combination
from cermet.methods.variance import energy_of_selected, most_varied, selected
from cermet.methods.whole import energy_shares


def _election(*, share: PerModel) -> Combination:
    return Combination(share, share, masked=True, normalize=True, equal_votes=True)


@method(
    on="deltas",
    source="arXiv:2408.07990",
    mask=selected,
    rounds=[most_varied, energy_of_selected],
    fit=energy_shares,
    fitted=["share"],
    form=_election,
    limits={"select_topk": (0.0, 1.0)},
    workspace=6.4,
    accepts={"int8_mask": "masks take no memory here"},
    properties=("permutation", "homogeneous"),
)
def sce(
    deltas: Float[torch.Tensor, "models *block"],
    *,
    mask: Float[torch.Tensor, "1 *block"],
    share: PerModel,
    select_topk: float = 1.0,
) -> Float[torch.Tensor, "*block"]:
    """Select the elements that vary most, weigh experts by their energy there, erase minorities.

    Maths       Select: the ⌊ρ·n₊⌋ positions with the largest variance over the experts (n₊: those
                where it is not 0). Calculate: wᵢ = Σ τᵢ² / Σₖ Σ τₖ² there. Erase:
                s = sgn Σ τᵢ (0 counts as +);  θ = θ₀ + Σ wᵢτᵢ[sgn τᵢ = s] / Σ wᵢ[sgn τᵢ = s]
    Inputs      deltas: expert minus base
    Parameters  select_topk: ρ, in [0, 1]; at 1 every position is selected
    Properties  model order does not matter; positions that are not selected keep the base
    When        a few experts of one pivot, as in FuseChat
    Example     >>> merge("sce", [0.0] * 3, [[2, 4, 1], [2, 0, 2]], select_topk=0.5)
                [0.0, 4.0, 0.0]
    Departures  Weights are uniform only where all energy is 0; mergekit 0.1.5 falls back to
                uniform below 1e-6, which silences the weights of ordinary fine-tuning. The
                authors' fork applies the selection to the weights alone.
    """
    return consensus(deltas, share, share, normalize=True, keep=mask, equal_votes=True)
