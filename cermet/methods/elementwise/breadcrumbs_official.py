from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import PerModel, method
from cermet.core.types import Place
from cermet.maths.sparsify import row_top


@method(
    on="deltas",
    grain="row",
    source="arXiv:2312.06795",
    limits={"gamma": (0.0, 1.0)},
    workspace=6.7,
    properties=("permutation", "homogeneous", "odd"),
)
def breadcrumbs_official(
    deltas: Float[torch.Tensor, "models rows columns"],
    *,
    place: Place,
    density: PerModel = (0.15,),
    gamma: PerModel = (0.006,),
    remove_first: bool = True,
    lambda_: float = 0.2,
) -> Float[torch.Tensor, "rows columns"]:
    """Breadcrumbs as its authors run it: outliers and small entries are dropped row by row.

    Maths       in each row of length C: drop the ⌊γC⌋ largest |τᵢ|, then keep the ⌊βC⌋ largest
                of the rest;  θ = θ₀ + α Σ τ̂ᵢ
    Inputs      deltas: expert minus base, rows along the last dimension (a vector is one row, a
                single number is kept)
    Parameters  density: β, the share that is kept. gamma: γ, the share of outliers.
                remove_first: outliers go first; without it they are taken out of the β largest.
                lambda: α. The defaults are the authors' first trial
    Properties  model order does not matter; γ = 0 and β = 1 is task arithmetic
    When        to reproduce published Breadcrumbs numbers
    Example     >>> merge("breadcrumbs_official", [0.0] * 4, [[9, 1, -3, 2]], density=0.5,
                ...       gamma=0.25, lambda_=1)
                [0.0, 0.0, -3.0, 2.0]
    Departures  Of equal magnitudes the first ones count as larger. The paper's β is the share
                that is dropped below; the code's, and ours, is the share that is kept.
    """
    columns = deltas.shape[-1]
    kept: list[torch.Tensor] = []
    for delta, share, outliers in zip(deltas, density, gamma, strict=True):
        size = delta.abs()
        dropped = int(columns * outliers)
        last = int(columns * share) + (dropped if remove_first else 0)
        if not place.shape:
            kept.append(delta.clone())
        elif dropped >= last:
            kept.append(delta * 0.0)
        else:
            kept.append(row_top(size, last).sub_(row_top(size, dropped)).mul_(delta))
    total = kept[0]
    for other in kept[1:]:
        total.add_(other)
    return total.mul_(lambda_)
