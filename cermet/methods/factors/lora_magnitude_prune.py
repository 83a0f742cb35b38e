from collections.abc import Sequence

from cermet.core.registry import PerModel
from cermet.maths.factors import Factors
from cermet.methods.adapters import added, apart, largest, peft_by_entry


@peft_by_entry()
def lora_magnitude_prune(
    factors: Sequence[Factors],
    *,
    count: int,
    rslora: bool,
    weight: PerModel,
    density: float,
) -> Factors:
    """PEFT's magnitude_prune: keep the largest entries of A and B, then add them.

    Maths       Âᵢ, B̂ᵢ: the ⌊dn⌋ largest |entries| of Aᵢ and of Bᵢ;
                A = Σ sgn(wᵢsᵢ)√|wᵢsᵢ| Âᵢ,  B = Σ √|wᵢsᵢ| B̂ᵢ;  scale 1, or √r with rsLoRA
                Cost for a matrix of m × n: a selection in each A and B, and three passes over all
                T(m + n)r of their entries
    Inputs      factors: Aᵢ [r, in], Bᵢ [out, r] and sᵢ of the adapters that have the module
    Parameters  weight: factor of each adapter. density: share of the entries of each A and each B
                that is kept
    Properties  model order does not matter
    When        the numbers of PEFT are wanted; else ties on the same recipe
    Example     >>> merge_lora("lora_magnitude_prune",
                ...            [([[1, 0]], [[2], [0]]), ([[0, 1]], [[0], [3]])],
                ...            weight=[1, 1], density=1)
                [[2.0, 2.0], [3.0, 3.0]]
    Departures  none from PEFT 0.21.2; of equal magnitudes the first are kept. Its result is no
                merge of the deltas, since A and B are pruned apart and BA holds cross terms;
                'ties' on a recipe of adapters works on the
                deltas. It is √r too large where the first adapter uses rsLoRA.
    """
    operator = largest(density, added)
    return apart(factors, weight, operator, count=count, rslora=rslora)
