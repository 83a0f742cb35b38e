from collections.abc import Sequence

from cermet.core.registry import PerModel
from cermet.maths.factors import Factors
from cermet.methods.adapters import Majority, apart, largest, peft_by_entry, voted


@peft_by_entry()
def lora_ties(
    factors: Sequence[Factors],
    *,
    count: int,
    rslora: bool,
    weight: PerModel,
    density: float,
    majority_sign_method: Majority = "total",
) -> Factors:
    """PEFT's ties: trim A and B, elect a sign for each entry, average what agrees.

    Maths       Âᵢ: the ⌊dn⌋ largest |entries| of Aᵢ;  s = sgn Σ Âᵢ (0 counts as +), or
                by frequency s = sgn Σ sgn Âᵢ;
                A = Σ sgn(wᵢsᵢ)√|wᵢsᵢ| Âᵢ[sgn Âᵢ = s] / max(1, #{i: sgn Âᵢ = s});
                B alike with √|wᵢsᵢ|
                Cost for a matrix of m × n: a selection in each A and B, and some ten passes over
                all T(m + n)r of their entries
    Inputs      factors: Aᵢ [r, in], Bᵢ [out, r] and sᵢ of the adapters that have the module
    Parameters  weight: factor of each adapter. density: share of the entries of each A and each B
                that is kept. majority_sign_method: elect by the sum of the values (total) or of
                their signs (frequency)
    Properties  model order does not matter
    When        the numbers of PEFT are wanted; else ties on the same recipe
    Example     >>> merge_lora("lora_ties",
                ...            [([[1, 0]], [[2], [0]]), ([[0, 1]], [[0], [3]])],
                ...            weight=[1, 1], density=1)
                [[2.0, 2.0], [3.0, 3.0]]
    Departures  none from PEFT 0.21.2; of equal magnitudes the first are kept. Its result is no
                merge of the deltas, since A and B are pruned apart and BA holds cross terms; 'ties'
                on a recipe of adapters works on the deltas. It is √r too large where the first
                adapter uses rsLoRA.
    """
    operator = largest(density, voted(majority_sign_method))
    return apart(factors, weight, operator, count=count, rslora=rslora)
