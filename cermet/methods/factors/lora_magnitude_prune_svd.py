from collections.abc import Sequence

from cermet.core.registry import PerModel
from cermet.maths.factors import Factors
from cermet.methods.adapters import added, largest, on_deltas, peft_on_deltas


@peft_on_deltas(limits={"rank": (1, None)})
def lora_magnitude_prune_svd(
    factors: Sequence[Factors],
    *,
    count: int,
    rslora: bool,
    weight: PerModel,
    density: float,
    rank: int | None = None,
) -> Factors:
    """PEFT's magnitude_prune_svd: keep the largest entries of each delta, add, truncate.

    Maths       τ̂ᵢ: the ⌊dn⌋ largest |entries| of sᵢBᵢAᵢ;  Σ wᵢτ̂ᵢ truncated to r;
                scale 1, or √r with rsLoRA
                Cost for a matrix of m × n, M × k: T products of mnrᵢ and a selection in each, a
                Gram matrix of Mk², its r leading eigenvectors, a product of mnr
    Inputs      factors: Aᵢ [rᵢ, in], Bᵢ [out, rᵢ] and sᵢ of the adapters that have the module
    Parameters  weight: factor of each adapter's delta. density: share of the entries of each delta
                that is kept. rank: PEFT's svd_rank; the largest rank of the adapters by default
    Properties  model order does not matter; the delta of a module is formed, one module at a time
    When        the numbers of PEFT are wanted; else ties on the same recipe
    Example     >>> merge_lora("lora_magnitude_prune_svd",
                ...            [([[1, 0]], [[2], [0]]), ([[0, 1]], [[0], [3]])],
                ...            weight=[1, 0.5], density=1, rank=1)
                [[2.0, 0.0], [0.0, 0.0]]
    Departures  none from PEFT 0.21.2; of equal magnitudes the first are kept. The result is √r too
                large where the first adapter uses rsLoRA.
    """
    operator = largest(density, added)
    return on_deltas(factors, weight, operator, rank=rank, count=count, rslora=rslora)
