from collections.abc import Sequence

from cermet.core.registry import PerModel, method
from cermet.maths.factors import Factors, balanced, stacked, truncated_product
from cermet.methods.adapters import given_rank


@method(on="factors", source="Eckart and Young, 1936", rank=given_rank, limits={"rank": (1, None)})
def lora_reduced(
    factors: Sequence[Factors], *, weight: PerModel, rank: int | None = None
) -> Factors:
    """Sum the adapters' deltas and take the best adapter of a rank, without forming a matrix.

    Maths       Σ wᵢsᵢBᵢAᵢ = [B₁ ...][w₁s₁A₁; ...] = Q_B (R_B R_Aᵀ) Q_Aᵀ;  core = UΣVᵀ, and of it
                the leading part:  B = Q_B U_r √Σ_r,  A = √Σ_r V_rᵀ Q_Aᵀ
                Cost for a matrix of m × n, R = Σ rᵢ: two QR decompositions, 4(m + n)R², a core of
                R³, two products of (m + n)Rr; the matrix is never formed
    Inputs      factors: Aᵢ [rᵢ, in], Bᵢ [out, rᵢ] and sᵢ of the adapters that have the module
    Parameters  weight: factor of each adapter's delta. rank: of the result; the largest rank of
                the adapters by default
    Properties  no adapter of this rank is nearer to the sum; with a rank of Σ rᵢ or more it is
                the sum; model order does not matter; (m + n)R² + R³ work for R = Σ rᵢ
    When        the sum at the size of one adapter; the plan says how much is lost
    Example     >>> merge_lora("lora_reduced", [([[1, 0]], [[2], [0]]), ([[0, 1]], [[0], [3]])],
                ...            weight=[1, 0.5], rank=1)
                [[2.0, 0.0], [0.0, 0.0]]
    Departures  PEFT's svd gives the same delta by a decomposition of the full matrix; here A and
                B are of one size, which loses least when they are rounded.
    """
    assert rank is not None  # the engine has asked given_rank
    left, right = stacked(factors, weight)
    return balanced(truncated_product(left, right, rank), rank, left.dtype)
