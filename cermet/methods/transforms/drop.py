from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import PerModel, method
from cermet.maths.combine import scaled_
from cermet.maths.sparsify import random_mask


@method(
    kind="transform",
    on="deltas",
    source="arXiv:2311.03099",
    noise=True,
    workspace=3.2,
    properties=("homogeneous", "odd"),
)
def drop(
    deltas: Float[torch.Tensor, "models *block"],
    *,
    noise: Float[torch.Tensor, "models *block"],
    density: PerModel,
    rescale: bool = True,
) -> Float[torch.Tensor, "models *block"]:
    """Drop entries of a delta at random, and divide the rest by the share that is kept.

    Maths       mᵢ ~ Bernoulli(dᵢ);  τ̂ᵢ = mᵢ⊙τᵢ / dᵢ
    Inputs      deltas: of each model, or after a merge the merged one
    Parameters  density: probability that an entry is kept (1 − p of the paper). rescale: divide by
                it; without, the expected result is that much smaller
    Properties  the expected result is the delta; density 1 changes nothing; the same seed gives
                the same mask on any machine
    When        small deltas of fine-tuning, of which 90 % and more can be dropped
    Example     >>> merge([("drop", {"density": 0.5}), ("task_arithmetic", {"weight": 1})],
                ...       [0.0, 0.0], [[2, 4]], noise=[[0.2, 0.7]])
                [4.0, 0.0]
    Departures  Probabilities are honoured to 1 part in 65,536. A second random step of a pipeline
                draws numbers of its own.
    """
    kept = random_mask(noise, density).mul_(deltas)
    return scaled_(kept, [1.0 / d if rescale and d > 0 else 1.0 for d in density])
