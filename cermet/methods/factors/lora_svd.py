from collections.abc import Sequence

import torch

from cermet.core.registry import PerModel
from cermet.maths.factors import Factors, padded, product, stacked, truncated_product
from cermet.methods.adapters import added, apart, peft_on_deltas, peft_scale


@peft_on_deltas(limits={"rank": (1, None), "svd_clamp": (0.0, 1.0)})
def lora_svd(
    factors: Sequence[Factors],
    *,
    count: int,
    rslora: bool,
    weight: PerModel,
    rank: int | None = None,
    svd_clamp: float | None = None,
) -> Factors:
    """PEFT's svd: the weighted sum of the deltas, truncated to a rank.

    Maths       UΣVᵀ = Σ wᵢsᵢBᵢAᵢ;  B = U_rΣ_r,  A = V_rᵀ;  with svd_clamp q, both are clamped to
                ± the q-quantile of all their entries;  scale 1, or √r with rsLoRA
                Cost for a matrix of m × n, R = Σ rᵢ: that of lora_reduced; with svd_clamp a whole
                decomposition, 14Mk² + 8k³ and more for M × k
    Inputs      factors: Aᵢ [rᵢ, in], Bᵢ [out, rᵢ] and sᵢ of the adapters that have the module
    Parameters  weight: factor of each adapter's delta. rank: PEFT's svd_rank; the largest rank of
                the adapters by default. svd_clamp: none by default
    Properties  the best approximation of the sum without svd_clamp and rsLoRA
    When        the numbers of PEFT are wanted; else lora_reduced
    Example     >>> merge_lora("lora_svd", [([[1, 0]], [[2], [0]]), ([[0, 1]], [[0], [3]])],
                ...            weight=[1, 0.5], rank=1)
                [[2.0, 0.0], [0.0, 0.0]]
    Departures  Without svd_clamp the matrix is never formed; the delta is the same. With it the
                full decomposition is taken as PEFT does, since the quantile depends on the signs
                that LAPACK chooses. PEFT 0.20 multiplied by the scale twice; 0.21.2, which this is
                held to, does not. The result is √r too large where the first adapter uses rsLoRA.
    """
    assert rank is not None  # the engine has asked peft_rank
    if count == 1:
        return apart(factors, weight, added, count=count, rslora=rslora)
    scale = peft_scale(rank, rslora)
    left, right = stacked(factors, weight)
    spectrum = truncated_product(left, right, rank)
    if svd_clamp is None:
        found = padded(spectrum.u * spectrum.values, spectrum.v, rank, left.dtype, spectrum.lost)
        return Factors(found.a, found.b, scale, found.lost)
    u, values, v = torch.linalg.svd(added([product(f) for f in factors], weight, "delta"))
    b, a = u[:, : len(values)][:, :rank] * values[:rank], v[:rank]
    most = float(torch.quantile(torch.cat([b.flatten(), a.flatten()]), svd_clamp))
    return Factors(a.clamp(-most, most), b.clamp(-most, most), scale, spectrum.lost)
