from collections.abc import Sequence

from cermet.core.registry import PerModel, method
from cermet.maths.factors import Factors, stacked
from cermet.methods.adapters import sum_of_ranks


@method(on="factors", source="task arithmetic, arXiv:2212.04089", rank=sum_of_ranks)
def lora_sum(factors: Sequence[Factors], *, weight: PerModel) -> Factors:
    """Sum the adapters' deltas exactly, by putting their factors side by side.

    Maths       B = [B₁ B₂ ...],  A = [w₁s₁A₁; w₂s₂A₂; ...]:  BA = Σ wᵢsᵢBᵢAᵢ
                Cost for a matrix of m × n: a copy of (m + n)Σ rᵢ numbers
    Inputs      factors: Aᵢ [rᵢ, in], Bᵢ [out, rᵢ] and sᵢ of the adapters that have the module
    Parameters  weight: factor of each adapter's delta
    Properties  exact to rounding; the rank is the sum of the ranks; model order does not matter
    When        the sum as it is, ranks of any size, and room for all of them
    Example     >>> merge_lora("lora_sum", [([[1, 0]], [[2], [0]]), ([[0, 1]], [[0], [3]])],
                ...            weight=[1, 0.5])
                [[2.0, 0.0], [0.0, 1.5]]
    Departures  PEFT's cat, without its error under rsLoRA (see lora_cat).
    """
    left, right = stacked(factors, weight)
    return Factors(right, left)
