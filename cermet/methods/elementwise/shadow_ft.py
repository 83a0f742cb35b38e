from cermet.core.composition import Given, composition
from cermet.core.registry import PerModel
from cermet.methods.elementwise.task_arithmetic import task_arithmetic
from cermet.methods.transforms.keep import keep


@composition(
    keep,
    task_arithmetic,
    source="arXiv:2505.12716",
    properties=("permutation", "homogeneous", "odd"),
)
def shadow_ft(*, weight: PerModel = (1.0,)) -> Given:
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
    return {"part": "linear"}, {"weight": weight}
