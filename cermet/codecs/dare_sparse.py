"""DARE as a compression: a seed, and the values that it spares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float

from cermet.core.codec import codec
from cermet.core.types import Place


def _everything(*, place: Place) -> bool:
    return True


def _decode(
    *, count: int, values: torch.Tensor, noise: Float[torch.Tensor, "count"], density: float
) -> Float[torch.Tensor, "count"]:
    found = torch.zeros(count, device=values.device)
    found[noise < density] = values.float()
    return found


@codec(
    decode=_decode,
    source="arXiv:2311.03099",
    covers=_everything,
    noise=True,
    limits={"density": (0.0, 1.0)},
)
def dare_sparse(
    delta: Float[torch.Tensor, "count"],
    *,
    noise: Float[torch.Tensor, "count"],
    density: float = 0.1,
    rescale: bool = True,
    precision: Literal["bfloat16", "float32"] = "bfloat16",
) -> Mapping[str, torch.Tensor]:
    """Changes kept at random and made larger to make up for the rest; a seed says which.

    Maths       m ~ Bernoulli(d) of the seed;  δ̂ = m · δ / d
    Keeps       the values where m = 1, and no places: the seed draws them again
    Parameters  density: probability d that a change is kept (1 − p of the paper). rescale: divide
                by it. precision: the dtype of what is kept
    Error       √(1/d − 1) of the delta's own size, by chance: zero in the mean
    When        deltas of supervised tuning, which are small; d of 0.1 is usual, 0.01 is possible
                for large models
    Example     >>> compress("dare_sparse", [0.0, 0.0], [1.0, -2.0], density=1.0)
                [1.0, -2.0]
    Departures  The draws are those of the method `dare_official` for its first expert: a function
                of the seed, the tensor's name and the place in it, the same on every machine.
    """
    kept = delta[noise < density]
    if rescale and density > 0:
        kept = kept / density
    return {"values": kept.to(getattr(torch, precision))}
