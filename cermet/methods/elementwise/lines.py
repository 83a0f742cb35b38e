from jaxtyping import Float
from torch import Tensor

from cermet.core.registry import PerModel, method
from cermet.core.types import Place
from cermet.maths.combine import weighted_sum
from cermet.methods.depth import growing


def _coefficients(
    *, place: Place, count: int, weight: PerModel, alpha: float | None, beta: float
) -> PerModel:
    factor = growing(place, 1.0 / count if alpha is None else alpha, beta)
    return tuple(factor * w for w in weight)


@method(
    on="deltas",
    source="arXiv:2410.17146",
    coefficients=_coefficients,
    workspace=1.0,
    properties=("permutation", "homogeneous", "odd", "equivariant"),
)
def lines(
    deltas: Float[Tensor, "models *block"],
    *,
    place: Place,
    count: int,
    beta: float,
    weight: PerModel = (1.0,),
    alpha: float | None = None,
) -> Float[Tensor, "*block"]:
    """Task arithmetic whose factor grows with depth: shallow layers stay general.

    Maths       γ = α + β·ℓ/(L−1) in layer ℓ of L, γ = α outside of the layers;
                θ = θ₀ + γ Σ wᵢτᵢ
    Inputs      deltas: expert minus base
    Parameters  beta: what the last layer has more than the first; the factor that task arithmetic
                would have. weight: factor of each delta. alpha: factor of the first layer and of
                everything outside; one over the number of experts by default
    Properties  β = 0 is task arithmetic; model order does not matter
    When        wherever task arithmetic is used; one expert and β = 1 − α keeps what the base knew
    Example     >>> merge("lines", [0.0, 0.0], [[1, 2], [3, 4]], alpha=0.5, beta=0.5)
                [2.0, 3.0]
    Departures  Layers are found by the architecture, so experts.0 of layer 20 is in layer 20;
                the authors' code takes the first number in a name. A single layer has α + β.
    """
    factors = _coefficients(place=place, count=count, weight=weight, alpha=alpha, beta=beta)
    return weighted_sum(deltas, factors)
