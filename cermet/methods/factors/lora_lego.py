from collections.abc import Sequence
from math import sqrt

import torch

from cermet.core.registry import PerModel, method
from cermet.maths.factors import Factors, stacked
from cermet.maths.kmeans import clusters
from cermet.methods.adapters import Uniform, given_rank


@method(
    on="factors",
    source="arXiv:2409.16167",
    rank=given_rank,
    limits={"rank": (1, None)},
    experimental="its scaling constants are not checked against the authors' code, which is not "
    "public",
)
def lora_lego(
    factors: Sequence[Factors],
    *,
    noise: Uniform,
    weight: PerModel = (1.0,),
    rank: int | None = None,
    reweight: bool = True,
    output_scale: float | None = None,
) -> Factors:
    """Cluster the ranks of all adapters, and keep the mean of each cluster as one rank.

    Maths       units zⱼ = [wᵢsᵢaⱼ; bⱼ], a row of an A with its column of B, of all adapters;
                k clusters by k-means;  z̄ = mean of a cluster, times (mean |z|) / |z̄| of its
                members with reweight;  B, A = the z̄;  scale √(r̄ / k), r̄ the mean rank
                Cost for a matrix of m × n, N = Σ rᵢ: N²(m + n) for the inner products of the units,
                then N²k for each round of k-means, a hundred at most
    Inputs      factors: Aᵢ [rᵢ, in], Bᵢ [out, rᵢ] and sᵢ of the adapters that have the module
    Parameters  weight: factor of each adapter's delta. rank: number of clusters k; the largest
                rank of the adapters by default. reweight: restore the mean norm of a cluster.
                output_scale: factor of the result; √(r̄ / k) by default
    Properties  k = Σ rᵢ, without reweight and at output_scale 1, is the sum; copies of one
                adapter give that adapter back
    When        adapters that share part of what they learnt; an adapter made smaller
    Example     >>> merge_lora("lora_lego", [([[1, 0]], [[2], [0]]), ([[1, 0]], [[2], [0]])])
                [[2.0, 0.0], [0.0, 0.0]]
    Departures  A reconstruction from the paper's text. Units are clustered as they are: neither
                is |a| made equal to |b|, nor the sign of a unit chosen. A rank above Σ rᵢ is
                filled with zeros.
    """
    assert rank is not None  # the engine has asked given_rank
    left, right = stacked(factors, weight)
    units = torch.cat([right, left.t()], dim=1).double()
    count = min(rank, len(units))
    labels = clusters(units, noise(0, "clusters", (count,)).tolist())
    means = torch.zeros(rank, units.shape[1], dtype=units.dtype, device=units.device)
    for place in sorted(set(labels.tolist())):
        members = units[labels == place]
        mean = members.mean(dim=0)
        size = float(mean.norm())
        if reweight and size:
            mean *= float(members.norm(dim=1).mean()) / size
        means[place] = mean
    scale = sqrt(len(units) / len(factors) / rank) if output_scale is None else output_scale
    a, b = means[:, : right.shape[1]], means[:, right.shape[1] :].t()
    return Factors(a.to(left.dtype).contiguous(), b.to(left.dtype).contiguous(), scale)
