from collections.abc import Sequence

from cermet.core.registry import PerModel
from cermet.maths.factors import Factors
from cermet.methods.adapters import Uniform, added, apart, at_random, peft_by_entry


@peft_by_entry()
def lora_dare_linear(
    factors: Sequence[Factors],
    *,
    count: int,
    rslora: bool,
    noise: Uniform,
    weight: PerModel,
    density: float,
) -> Factors:
    """PEFT's dare_linear: drop entries of A and B at random, then add them.

    Maths       Âᵢ, B̂ᵢ: each entry of Aᵢ and Bᵢ with probability d, divided by d;
                A = Σ sgn(wᵢsᵢ)√|wᵢsᵢ| Âᵢ,  B = Σ √|wᵢsᵢ| B̂ᵢ;  scale 1, or √r with rsLoRA
                Cost for a matrix of m × n: T(m + n)r draws, and some passes over as many entries
    Inputs      factors: Aᵢ [r, in], Bᵢ [out, r] and sᵢ of the adapters that have the module
    Parameters  weight: factor of each adapter. density: share of the entries of each A and each B
                that is kept
    Properties  model order does not matter but for the draws
    When        the numbers of PEFT are wanted; else dare_linear on the same recipe
    Example     >>> merge_lora("lora_dare_linear",
                ...            [([[1, 0]], [[2], [0]]), ([[0, 1]], [[0], [3]])],
                ...            weight=[1, 1], density=1)
                [[2.0, 2.0], [3.0, 3.0]]
    Departures  none from PEFT 0.21.2, but that the draws are seeded. Its result is no merge of the
                deltas, since A and B are pruned apart and BA holds cross terms; 'dare_linear' on a
                recipe of adapters works on the deltas. It is √r too large where the first adapter
                uses rsLoRA.
    """
    operator = at_random(density, noise, added)
    return apart(factors, weight, operator, count=count, rslora=rslora)
