import torch
from jaxtyping import Float
from torch import Tensor

from cermet.core.registry import Kth, PerModel, Sum, method
from cermet.maths.combine import agreeing_mean, elected_sign, scaled_, weighted_sum
from cermet.maths.select import Cutoff, kept_mask


def _variance(deltas: Float[Tensor, "models *block"]) -> Float[Tensor, "1 *block"]:
    """Population variance over the models; exactly 0 where they agree."""
    share = 1.0 / len(deltas)
    first, *others = deltas
    mean, room = torch.zeros_like(first), torch.empty_like(first)  # offsets from the first
    for other in others:
        mean.add_(torch.sub(other, first, out=room), alpha=share)
    variance = mean.square().mul_(share)
    for other in others:
        offset = torch.sub(other, first, out=room).sub_(mean)
        variance.add_(offset.square_(), alpha=share)
    return variance[None]


def _largest(*, select_topk: float, nonzero: list[int]) -> list[list[int]]:
    return [[int(n * select_topk)] for n in nonzero]


def _selective(*, select_topk: float) -> bool:
    return select_topk < 1


def _chosen(
    deltas: Float[Tensor, "models *block"], *, selected: Cutoff | None
) -> Float[Tensor, "1 *block"]:
    """1.0 at the positions that are selected, else 0.0; the same for every model."""
    if selected is None:
        return torch.ones_like(deltas[:1])
    variance = _variance(deltas)
    return kept_mask(variance[0], selected)[None]


def _energy(
    deltas: Float[Tensor, "models *block"], *, mask: Float[Tensor, "1 *block"]
) -> Float[Tensor, "models *block"]:
    return (deltas * mask).square_()


def _shares(*, energy: Tensor) -> dict[str, PerModel]:
    total = float(energy.sum())
    count = len(energy)
    if total == 0:
        return {"share": (1.0 / count,) * count}
    return {"share": tuple((energy / total).tolist())}


@method(
    on="deltas",
    source="arXiv:2408.07990",
    mask=_chosen,
    rounds=[
        Kth("selected", of=_variance, rank=_largest, when=_selective),
        Sum("energy", of=_energy),
    ],
    fit=_shares,
    fitted=["share"],
    limits={"select_topk": (0.0, 1.0)},
    workspace=5.5,
    accepts={"int8_mask": "masks take no memory here"},
    properties=("permutation", "homogeneous"),
)
def sce(
    deltas: Float[Tensor, "models *block"],
    *,
    mask: Float[Tensor, "1 *block"],
    share: PerModel,
    select_topk: float = 1.0,
) -> Float[Tensor, "*block"]:
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
    chosen = deltas * mask
    sign = elected_sign(weighted_sum(chosen, [1.0] * len(share)))
    return agreeing_mean(scaled_(chosen, share), share, sign, normalize=True)
