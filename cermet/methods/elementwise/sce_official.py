from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import PerModel, method
from cermet.maths.combine import consensus
from cermet.maths.lowered import Combination
from cermet.methods.variance import energy_of_selected, most_varied, selected
from cermet.methods.whole import energy_shares


def _election(*, share: PerModel) -> Combination:
    return Combination(share, share, normalize=True, equal_votes=True)


@method(
    on="deltas",
    source="arXiv:2408.07990",
    mask=selected,
    rounds=[most_varied, energy_of_selected],
    fit=energy_shares,
    fitted=["share"],
    form=_election,
    limits={"select_topk": (0.0, 1.0)},
    workspace=5.1,
    properties=("permutation", "homogeneous"),
)
def sce_official(
    deltas: Float[torch.Tensor, "models *block"], *, share: PerModel, select_topk: float = 0.1
) -> Float[torch.Tensor, "*block"]:
    """SCE as FuseChat's own code runs it: the selection decides the weights alone.

    Maths       wᵢ as in sce;  s = sgn Σ τᵢ (0 counts as +) over all elements;
                θ = θ₀ + Σ wᵢτᵢ[sgn τᵢ = s] / Σ wᵢ[sgn τᵢ = s]
    Inputs      deltas: expert minus the pivot
    Parameters  select_topk: share of the elements with some variance that the weights are made
                from; FuseChat used 0.1, FuseO1 used 1
    Properties  model order does not matter; every element moves, selected or not
    When        to reproduce FuseChat-2.0 and FuseO1
    Example     >>> merge("sce_official", [0.0] * 3, [[2, 4, 1], [2, 0, 2]], select_topk=0.5)
                [2.0, 4.0, 1.0]
    Departures  none; sce is the paper's form, in which elements that are not selected stay
    """
    return consensus(deltas, share, share, normalize=True, equal_votes=True)
