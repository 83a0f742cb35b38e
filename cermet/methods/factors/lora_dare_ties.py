from collections.abc import Sequence

from cermet.core.registry import PerModel
from cermet.maths.factors import Factors
from cermet.methods.adapters import Majority, Uniform, apart, at_random, peft_by_entry, voted


@peft_by_entry()
def lora_dare_ties(
    factors: Sequence[Factors],
    *,
    count: int,
    rslora: bool,
    noise: Uniform,
    weight: PerModel,
    density: float,
    majority_sign_method: Majority = "total",
) -> Factors:
    """PEFT's dare_ties: drop entries of A and B at random, elect signs, average what agrees.

    Maths       as lora_ties, with Âᵢ, B̂ᵢ: each entry of Aᵢ and Bᵢ with probability d, divided by d
                Cost for a matrix of m × n: T(m + n)r draws, and some passes over as many entries
    Inputs      factors: Aᵢ [r, in], Bᵢ [out, r] and sᵢ of the adapters that have the module
    Parameters  weight: factor of each adapter. density: share of the entries of each A and each B
                that is kept. majority_sign_method: elect by the sum of the values (total) or of
                their signs (frequency)
    Properties  model order does not matter but for the draws
    When        the numbers of PEFT are wanted; else dare_ties on the same recipe
    Example     >>> merge_lora("lora_dare_ties",
                ...            [([[1, 0]], [[2], [0]]), ([[0, 1]], [[0], [3]])],
                ...            weight=[1, 1], density=1)
                [[2.0, 2.0], [3.0, 3.0]]
    Departures  none from PEFT 0.21.2, but that the draws are seeded. Its result is no merge of the
                deltas, since A and B are pruned apart and BA holds cross terms; 'dare_ties' on a
                recipe of adapters works on the deltas. It is √r too large where the first adapter
                uses rsLoRA.
    """
    operator = at_random(density, noise, voted(majority_sign_method))
    return apart(factors, weight, operator, count=count, rslora=rslora)
