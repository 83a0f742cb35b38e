from collections.abc import Sequence

from cermet.core.registry import PerModel, method
from cermet.maths.factors import Factors, stacked
from cermet.methods.adapters import peft_scale, sum_of_ranks


@method(on="factors", source="PEFT, add_weighted_adapter", rank=sum_of_ranks)
def lora_cat(factors: Sequence[Factors], *, rslora: bool, weight: PerModel) -> Factors:
    """PEFT's cat: the adapters' factors side by side.

    Maths       B = [B₁ B₂ ...],  A = [w₁s₁A₁; w₂s₂A₂; ...];  scale 1, or √r where the first
                adapter uses rsLoRA
                Cost for a matrix of m × n: a copy of (m + n)Σ rᵢ numbers
    Inputs      factors: Aᵢ [rᵢ, in], Bᵢ [out, rᵢ] and sᵢ of the adapters that have the module
    Parameters  weight: factor of each adapter's delta
    Properties  the exact sum without rsLoRA; model order does not matter then
    When        the numbers of PEFT are wanted; else lora_sum
    Example     >>> merge_lora("lora_cat", [([[1, 0]], [[2], [0]]), ([[0, 1]], [[0], [3]])],
                ...            weight=[1, 0.5])
                [[2.0, 0.0], [0.0, 1.5]]
    Departures  none from PEFT 0.21.2, whose result is √r too large where the first adapter uses
                rsLoRA, since it keeps that setting; lora_sum is the true sum in every case.
    """
    left, right = stacked(factors, weight)
    return Factors(right, left, peft_scale(len(right), rslora))
