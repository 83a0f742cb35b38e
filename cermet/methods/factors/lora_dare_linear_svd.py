from collections.abc import Sequence

from cermet.core.registry import PerModel
from cermet.maths.factors import Factors
from cermet.methods.adapters import Uniform, added, at_random, on_deltas, peft_on_deltas


@peft_on_deltas(limits={"rank": (1, None)})
def lora_dare_linear_svd(
    factors: Sequence[Factors],
    *,
    count: int,
    rslora: bool,
    noise: Uniform,
    weight: PerModel,
    density: float,
    rank: int | None = None,
) -> Factors:
    """PEFT's dare_linear_svd: drop entries of the deltas at random, add them, truncate the sum.

    Maths       τ̂ᵢ: each entry of sᵢBᵢAᵢ with probability d, divided by d;  Σ wᵢτ̂ᵢ truncated to r;
                scale 1, or √r with rsLoRA
                Cost for a matrix of m × n, M × k: T products of mnrᵢ and Tmn draws, a Gram matrix
                of Mk², its r leading eigenvectors, a product of mnr
    Inputs      factors: Aᵢ [rᵢ, in], Bᵢ [out, rᵢ] and sᵢ of the adapters that have the module
    Parameters  weight: factor of each adapter's delta. density: share of the entries of each delta
                that is kept. rank: PEFT's svd_rank; the largest rank of the adapters by default
    Properties  model order does not matter but for the draws; the delta of a module is formed, one
                module at a time
    When        the numbers of PEFT are wanted; else dare_linear on the same recipe
    Example     >>> merge_lora("lora_dare_linear_svd",
                ...            [([[1, 0]], [[2], [0]]), ([[0, 1]], [[0], [3]])],
                ...            weight=[1, 0.5], density=1, rank=1)
                [[2.0, 0.0], [0.0, 0.0]]
    Departures  none from PEFT 0.21.2, but that the draws are seeded. The result is √r too large
                where the first adapter uses rsLoRA.
    """
    operator = at_random(density, noise, added)
    return on_deltas(factors, weight, operator, rank=rank, count=count, rslora=rslora)
