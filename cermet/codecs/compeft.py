"""ComPEFT: signs at the largest changes of the whole model, entropy-coded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float

from cermet.core.codec import codec
from cermet.core.registry import Kth, Sum
from cermet.core.types import Place
from cermet.maths.rice import decode_ternary, encode_ternary, entropy
from cermet.maths.select import Cutoff
from cermet.maths.sparsify import magnitudes, trim


def _everything(*, place: Place) -> bool:
    return True


def _moments(deltas: Float[torch.Tensor, "1 *block"]) -> Float[torch.Tensor, "3 *block"]:
    return torch.cat([torch.ones_like(deltas), deltas, deltas.square()])


def _rank(*, density: float, numel: int) -> list[list[int]]:
    """The k-th smallest value from below is kept too, so one more than the share."""
    return [[min(numel, int(density * numel) + 1)]]


def _kept(
    deltas: Float[torch.Tensor, "1 *block"], *, cutoff: Cutoff
) -> Float[torch.Tensor, "2 *block"]:
    trimmed = trim(deltas, cutoff.with_ties())
    return torch.cat([trimmed, (trimmed != 0).float()])


def _alpha(
    *, moments: torch.Tensor, kept: torch.Tensor, alpha: float, magnitude: str
) -> dict[str, float]:
    count, total, squares = (float(m) for m in moments)
    if magnitude == "mean":
        size = float(kept[0]) / max(1.0, float(kept[1]))
    else:
        variance = (squares - total * total / count) / max(1.0, count - 1)
        size = alpha * max(0.0, variance) ** 0.5
    return {"size": float(torch.tensor(size, dtype=torch.float32))}


def _bound(*, moments: torch.Tensor, kept: torch.Tensor) -> float:
    return entropy(float(kept[1]) / max(1.0, float(moments[0])))


def _decode(*, count: int, ternary: torch.Tensor, size: float) -> Float[torch.Tensor, "count"]:
    return decode_ternary(ternary, count).mul_(size)


@codec(
    decode=_decode,
    source="arXiv:2311.13171",
    covers=_everything,
    rounds=[
        Sum("moments", of=_moments, scope="model"),
        Kth("cutoff", of=magnitudes, rank=_rank, scope="model"),
        Sum("kept", of=_kept, scope="model"),
    ],
    fit=_alpha,
    fitted=["size"],
    bound=_bound,
    limits={"density": (0.0, 1.0)},
    workspace=16.0,
)
def compeft(
    delta: Float[torch.Tensor, "count"],
    *,
    cutoff: Cutoff,
    density: float = 0.2,
    alpha: float = 1.0,
    magnitude: Literal["deviation", "mean"] = "deviation",
) -> Mapping[str, torch.Tensor]:
    """The signs of the model's largest changes, all of one size, in a Golomb-Rice code.

    Maths       δ̂ = α · s · sgn δ where |δ| is among the largest d of the whole model, else 0;
                s: the standard deviation of all δ of the model
    Keeps       for each run of 262,144 weights the gaps between those places, and their signs
    Parameters  density: share of the model's weights that is kept (the authors' k; one more is,
                and all that equal it). alpha: factor of s. magnitude: deviation for α·s; mean
                for the signed mean of what is kept, the baseline STC of the authors' code
    Error       grows as d falls; α is searched from 0.5 to 10 on validation data
    When        sending an expert; large models lose little at 0.05
    Example     >>> compress("compeft", [0.0] * 5, [5.0, -6.0, 0.1, 0.0, 0.0], density=0.2)
                [3.9003, -3.9003, 0.0, 0.0, 0.0]
    Departures  Every tensor of numbers takes part. A density of 1 keeps the sign of every
                change; the authors' code then returns the update as it is.
    """
    kept = trim(delta[None], cutoff.with_ties())[0]
    return {"ternary": encode_ternary(kept.sign().to(torch.int8))}
