from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import Gram, PerModel, method
from cermet.core.types import Doubles, Grain
from cermet.maths.combine import weighted_sum
from cermet.maths.sphere import stock_ratio


def _grain(*, filter_wise: bool) -> Grain:
    return "row" if filter_wise else "element"


def _whole(*, filter_wise: bool) -> bool:
    return not filter_wise


def _shares(*, gram: Doubles | None) -> dict[str, PerModel | None]:
    if gram is None:
        return {"shares": None}
    return {"shares": (stock_ratio(gram) / len(gram),) * len(gram)}


def _by_row(
    deltas: Float[torch.Tensor, "models rows columns"],
) -> Float[torch.Tensor, "rows columns"]:
    """The mean of each row of the deltas, times that row's own ratio."""
    count = len(deltas)
    norms = deltas.square().sum(dim=-1).sqrt_()
    cosines = []
    for i in range(count):
        for j in range(i + 1, count):
            product = norms[i] * norms[j]
            safe = product + torch.eq(product, 0.0, out=torch.empty_like(product))
            cosines.append(((deltas[i] * deltas[j]).sum(dim=-1) / safe).clamp_(-1.0, 1.0))
    pairs = torch.stack(cosines)
    cosine = weighted_sum(pairs, [1.0 / len(pairs)] * len(pairs))
    denominator = 1.0 + (count - 1) * cosine
    ratio = torch.where(denominator.abs() < 1e-6, 0.0, count * cosine / denominator)
    return weighted_sum(deltas, [1.0 / count] * count) * ratio[:, None]


def _coefficients(*, shares: PerModel | None) -> PerModel | None:
    return shares


@method(
    on="deltas",
    grain=_grain,
    models=(2, None),
    source="arXiv:2403.19522",
    rounds=[Gram("gram", arrays=True, when=_whole)],
    fit=_shares,
    fitted=["shares"],
    coefficients=_coefficients,
    workspace=2.0,
    properties=("permutation", "idempotent", "homogeneous", "odd"),
)
def model_stock(
    deltas: Float[torch.Tensor, "models *block"],
    *,
    shares: PerModel | None,
    filter_wise: bool = False,
) -> Float[torch.Tensor, "*block"]:
    """Move from the base towards the experts' mean as far as their agreement says.

    Maths       c = mean over pairs of cos ∠(τᵢ, τₖ);  t = N·c / (1 + (N−1)·c);
                θ = t·mean θᵢ + (1−t)·θ₀
    Inputs      deltas: expert minus base
    Parameters  filter_wise: one t for each row instead of one for the tensor
    Properties  model order does not matter; orthogonal deltas give the base, equal ones the
                expert; t may be negative where the deltas oppose each other
    When        fine-tunes of one recipe with different seeds or settings
    Example     >>> merge("model_stock", [0.0, 0.0], [[1.0, 0.0], [1.0, 1.0]])
                [0.8284, 0.4142]
    Departures  The authors released no code; this is mergekit's form (mean of cosines, t not
                clamped), without its floor of 1e-6 under the product of norms, which leaves
                small tensors at the base.
    """
    return _by_row(deltas) if shares is None else weighted_sum(deltas, shares)
