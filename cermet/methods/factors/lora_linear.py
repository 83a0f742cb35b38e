from collections.abc import Sequence

from cermet.core.registry import PerModel
from cermet.maths.factors import Factors
from cermet.methods.adapters import added, apart, peft_by_entry


@peft_by_entry()
def lora_linear(
    factors: Sequence[Factors], *, count: int, rslora: bool, weight: PerModel
) -> Factors:
    """PEFT's linear: add the adapters' A and their B apart.

    Maths       A = Σ sgn(wᵢsᵢ)√|wᵢsᵢ| Aᵢ,  B = Σ √|wᵢsᵢ| Bᵢ;  scale 1, or √r with rsLoRA
                Cost for a matrix of m × n: 2T(m + n)r operations
    Inputs      factors: Aᵢ [r, in], Bᵢ [out, r] and sᵢ of the adapters that have the module
    Parameters  weight: factor of each adapter
    Properties  model order does not matter; T equal adapters at 1/T give T times their delta
    When        the numbers of PEFT are wanted; else lora_sum or lora_reduced
    Example     >>> merge_lora("lora_linear", [([[1, 0]], [[2], [0]]), ([[0, 1]], [[0], [3]])],
                ...            weight=[1, 1])
                [[2.0, 2.0], [3.0, 3.0]]
    Departures  none from PEFT 0.21.2. Its result is not the sum: BA holds the cross terms
                √(wᵢsᵢwⱼsⱼ) BᵢAⱼ too. It is √r too large where the first adapter uses rsLoRA.
    """
    return apart(factors, weight, added, count=count, rslora=rslora)
