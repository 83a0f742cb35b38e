from cermet.core.composition import Given, composition
from cermet.core.registry import PerModel
from cermet.methods.elementwise.task_arithmetic import task_arithmetic
from cermet.methods.transforms.lines import lines as growing


@composition(
    task_arithmetic,
    growing,
    source="arXiv:2410.17146",
    properties=("permutation", "homogeneous", "odd", "equivariant"),
)
def lines(
    *, count: int, beta: float, weight: PerModel = (1.0,), alpha: float | None = None
) -> Given:
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
    return {"weight": weight}, {"alpha": 1.0 / count if alpha is None else alpha, "beta": beta}
