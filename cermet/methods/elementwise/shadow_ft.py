from jaxtyping import Float
from torch import Tensor

from cermet.core.registry import PerModel, method
from cermet.core.types import Place
from cermet.maths.combine import weighted_sum
from cermet.methods.parts import belongs


def _coefficients(*, place: Place, weight: PerModel) -> PerModel:
    return weight if belongs(place, "linear") else (0.0,) * len(weight)


@method(
    on="deltas",
    source="arXiv:2505.12716",
    coefficients=_coefficients,
    workspace=1.0,
    properties=("permutation", "homogeneous", "odd"),
)
def shadow_ft(
    deltas: Float[Tensor, "models *block"], *, place: Place, weight: PerModel = (1.0,)
) -> Float[Tensor, "*block"]:
    """Tune the base, and graft what its linear layers learnt onto the instruct model.

    Maths       θ = θ_I + w (θ_B⁺ − θ_B) in the projections of attention and feed-forward layers,
                θ = θ_I everywhere else
    Inputs      deltas: the tuned base minus the base; in a recipe base_model is the instruct model
                and the tuned one names its own base with delta_of
    Parameters  weight: factor of the graft, 1 in the paper
    Properties  norms, embeddings, head and routers are the instruct model's, bit for bit
    When        instruct models that lose by being tuned directly
    Example     >>> merge("shadow_ft", [1.0, 2.0], [[3, 4]])
                [1.0, 2.0]
    Departures  Linear layers are found by role, so that fused projections take part too; the
                authors look for seven names.
    """
    return weighted_sum(deltas, _coefficients(place=place, weight=weight))
