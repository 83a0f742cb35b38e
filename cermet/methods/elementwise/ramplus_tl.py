from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import PerModel, Sum, method
from cermet.maths.combine import changed, changed_mean


def _counts(
    deltas: Float[torch.Tensor, "models *block"], *, epsilon: float
) -> Float[torch.Tensor, "2 models *block"]:
    """Ones where a model changed an element together with others, and alone."""
    own = changed(deltas, epsilon)
    count = own.sum(dim=0)
    shared = own * torch.gt(count, 1.5, out=torch.empty_like(count))
    return torch.stack((shared, own - shared))


def _boosts(*, counts: torch.Tensor, r: float, alpha: float, epsilon: float) -> dict[str, PerModel]:
    ratios = (counts[0] / counts[1].clamp_min(epsilon)).clamp(0.0, alpha)
    return {"boost": tuple((1.0 + r * ratios).tolist())}


@method(
    on="deltas",
    source="arXiv:2601.13572",
    rounds=[Sum("counts", of=_counts)],
    fit=_boosts,
    fitted=["boost"],
    limits={"epsilon": (0.0, None), "alpha": (0.0, None)},
    workspace=5.0,
    properties=("permutation", "odd"),
)
def ramplus_tl(
    deltas: Float[torch.Tensor, "models *block"],
    *,
    boost: PerModel,
    r: float = 0.1,
    alpha: float = 0.2,
    epsilon: float = 1e-5,
) -> Float[torch.Tensor, "*block"]:
    """As ram, with the elements that one expert alone changed made a little stronger.

    Maths       λᵢ = 1 + r·min(α, sharedᵢ / uniqueᵢ), counted over the tensor;
                θ = θ₀ + λᵢτᵢ where one expert changed the element, else as ram
    Inputs      deltas: expert minus base
    Parameters  r: strength. alpha: largest ratio that counts. epsilon: as in ram
    Properties  r 0 is ram
    When        as ram, where experts overlap much and their own parts fade
    Example     >>> merge("ramplus_tl", [0.0, 0.0], [[2, 4], [0, 2]], r=1.0, alpha=0.5)
                [3.0, 3.0]
    Departures  none ("tl": the ratio is counted tensor by tensor)
    """
    return changed_mean(deltas, epsilon, boost)
