from collections.abc import Sequence

from cermet.core.registry import PerModel
from cermet.maths.factors import Factors
from cermet.methods.adapters import Majority, largest, on_deltas, peft_on_deltas, voted


@peft_on_deltas(limits={"rank": (1, None)})
def lora_ties_svd(
    factors: Sequence[Factors],
    *,
    count: int,
    rslora: bool,
    weight: PerModel,
    density: float,
    rank: int | None = None,
    majority_sign_method: Majority = "total",
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
    operator = largest(density, voted(majority_sign_method))
    return on_deltas(factors, weight, operator, rank=rank, count=count, rslora=rslora)
