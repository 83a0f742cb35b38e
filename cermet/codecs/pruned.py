"""Magnitude pruning: the largest changes of the whole model, as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float

from cermet.core.codec import codec
from cermet.core.registry import Kth
from cermet.core.types import Place
from cermet.maths.rice import decode_ternary, encode_ternary
from cermet.maths.select import Cutoff
from cermet.maths.sparsify import magnitudes, trim


def _everything(*, place: Place) -> bool:
    return True


def _rank(*, density: float, numel: int) -> list[list[int]]:
    """The k-th smallest value from below is kept too, so one more than the share."""
    return [[min(numel, int(density * numel) + 1)]]


def _decode(
    *, count: int, ternary: torch.Tensor, sizes: torch.Tensor
) -> Float[torch.Tensor, "count"]:
    found = decode_ternary(ternary, count)
    places = found != 0
    if int(places.sum()) != len(sizes):
        raise ValueError(f"{int(places.sum()):,} places have {len(sizes):,} sizes")
    found[places] *= sizes.float()
    return found


@codec(
    decode=_decode,
    source="magnitude pruning; arXiv:2311.13171",
    covers=_everything,
    rounds=[Kth("cutoff", of=magnitudes, rank=_rank, scope="model")],
    limits={"density": (0.0, 1.0)},
    workspace=16.0,
)
def pruned(
    delta: Float[torch.Tensor, "count"],
    *,
    cutoff: Cutoff,
    density: float = 0.1,
    precision: Literal["bfloat16", "float32"] = "bfloat16",
) -> Mapping[str, torch.Tensor]:
    """The model's largest changes as they are, at places in a Golomb-Rice code.

    Maths       δ̂ = δ where |δ| is among the largest d of the whole model, else 0
    Keeps       for each run of 262,144 weights the gaps between those places, their signs, and
                their sizes in 16 bits
    Parameters  density: share of the model's weights that is kept (one more is, and all that
                equal it). precision: the dtype of the sizes
    Error       the least that any so many changes can have, but for their rounding
    When        few weights have changed much, or compeft's one size is too coarse
    Example     >>> compress("pruned", [0.0] * 5, [5.0, -6.0, 0.1, 0.0, 0.0], density=0.2)
                [5.0, -6.0, 0.0, 0.0, 0.0]
    Departures  none; the authors of ComPEFT prune so where they do not quantise.
    """
    kept = trim(delta[None], cutoff.with_ties())[0]
    signs = kept.sign().to(torch.int8)
    sizes = kept[signs != 0].abs().to(getattr(torch, precision))
    return {"ternary": encode_ternary(signs), "sizes": sizes}
