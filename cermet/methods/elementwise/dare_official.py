from cermet.core.composition import Given, composition
from cermet.core.registry import PerModel
from cermet.methods.elementwise.task_arithmetic import task_arithmetic
from cermet.methods.transforms.drop import drop


@composition(
    drop,
    task_arithmetic,
    source="arXiv:2311.03099",
    workspace=3.2,
    properties=("homogeneous", "odd"),
)
def dare_official(
    *,
    weight: PerModel = (1.0,),
    density: PerModel = (0.9,),
    rescale: bool = True,
    lambda_: float = 1.0,
) -> Given:
    """Drop entries of the deltas at random, divide the rest by the share that is kept, add up.

    Maths       mᵢ ~ Bernoulli(dᵢ);  θ = θ₀ + λ Σ wᵢ mᵢτᵢ / dᵢ
    Inputs      deltas: expert minus base
    Parameters  weight: factor of each delta. density: probability that an entry is kept (1 − p
                of the paper). rescale: divide by it. lambda: factor of the sum
    Properties  the expected result is that of density 1
    When        to reproduce published DARE numbers; p may be 0.9 and more for deltas of SFT
    Example     >>> merge("dare_official", [0.0, 0.0], [[2, 4]], density=0.5, noise=[[0.2, 0.7]])
                [4.0, 0.0]
    Departures  The authors' scripts rescale only where a flag asks for it; the paper always
                does, and so does this. mergekit's dare_linear matches the L1 norm of each
                tensor instead. Masks are a function of seed, tensor and model.
    """
    return {"density": density, "rescale": rescale}, {"weight": weight, "lambda": lambda_}
