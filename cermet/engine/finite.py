"""Refusing NaN and infinity by name: which tensor, of what, at which element."""

from __future__ import annotations

import torch
from torch import Tensor

from cermet.core.errors import NonFiniteError
from cermet.engine.blocks import Input

__all__ = ["FAR", "refuse_non_finite", "strong"]

FAR = 1e30
"""A sum of inputs from which on float32 may overflow."""

_STRONG = 1e4  # a parameter from which on ordinary inputs may

_ADVICE = {
    "model": "check how the model was trained or converted",
    "the statistics": "make them again",
}


def refuse_non_finite(
    given: Input, block: Tensor, start: int | None, cast: str = "", *, of: str = "model"
) -> None:
    """NonFiniteError for the first NaN or infinity of a flat block that begins at `start`.

    `cast` says to which dtype the recipe has it cast, if it does; `of`, whether it belongs to a
    model or to the statistics.
    """
    bad = (~torch.isfinite(block)).nonzero()
    if len(bad):
        where = "" if start is None else f" at element {start + int(bad[0])}"
        raise NonFiniteError(
            f"Tensor '{given.name}' of {of} '{given.source.path}' holds "
            f"{block[bad[0]].item()}{cast}{where}. A merge of it would be useless; "
            f"{_ADVICE[of]}."
        )


def strong(value: object) -> bool:
    """Whether a parameter, or one of its values, is so large that a product may overflow."""
    if isinstance(value, tuple):
        return any(map(strong, value))
    return isinstance(value, int | float) and abs(value) > _STRONG
