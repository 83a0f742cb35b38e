from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from cermet.core.registry import PerModel, method
from cermet.maths.factors import Factors
from cermet.methods.adapters import largest_kept, on_deltas, peft_rank, voted


@method(
    on="factors",
    source="PEFT, add_weighted_adapter",
    rank=peft_rank,
    limits={"rank": (1, None)},
    forms_deltas=True,
)
def lora_ties_svd(
    factors: Sequence[Factors],
    *,
    count: int,
    rslora: bool,
    weight: PerModel,
    density: float,
    rank: int | None = None,
    majority_sign_method: Literal["total", "frequency"] = "total",
) -> Factors:
    """PEFT's ties_svd: trim the deltas, elect signs, average what agrees, truncate.

    Maths       τ̂ᵢ: the ⌊dn⌋ largest |entries| of sᵢBᵢAᵢ;  s = sgn Σ τ̂ᵢ (0 counts as +), or
                by frequency s = sgn Σ sgn τ̂ᵢ;
                Σ wᵢτ̂ᵢ[sgn τ̂ᵢ = s] / max(1, #{i: sgn τ̂ᵢ = s}) truncated to r
                Cost for a matrix of m × n, M × k: T products of mnrᵢ and a selection in each, a
                Gram matrix of Mk², its r leading eigenvectors, a product of mnr
    Inputs      factors: Aᵢ [rᵢ, in], Bᵢ [out, rᵢ] and sᵢ of the adapters that have the module
    Parameters  weight: factor of each adapter's delta. density: share of the entries of each delta
                that is kept. rank: PEFT's svd_rank; the largest rank of the adapters by default.
                majority_sign_method: elect by the sum of the values (total) or of their signs
                (frequency)
    Properties  model order does not matter; the delta of a module is formed, one module at a time
    When        the numbers of PEFT are wanted; else ties on the same recipe
    Example     >>> merge_lora("lora_ties_svd",
                ...            [([[1, 0]], [[2], [0]]), ([[0, 1]], [[0], [3]])],
                ...            weight=[1, 0.5], density=1, rank=1)
                [[2.0, 0.0], [0.0, 0.0]]
    Departures  none from PEFT 0.21.2; of equal magnitudes the first are kept. Where it counts those
                that agree, its weights are not normalised. The result is √r too large where the
                first adapter uses rsLoRA.
    """

    def merged(tensors: Sequence[Tensor], weights: Sequence[float], what: str) -> Tensor:
        kept = [largest_kept(t, density) for t in tensors]
        return voted(kept, weights, majority_sign_method == "frequency")

    return on_deltas(factors, weight, merged, rank=rank, count=count, rslora=rslora)
