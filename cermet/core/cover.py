"""What a method does with one tensor: its maths, or the sum that it declares for all others."""

from __future__ import annotations

from typing import Any

from cermet.core.registry import Method, PerModel, call
from cermet.core.types import Grain, Place

__all__ = ["grain_of", "plain_sum", "workspace_of"]


def plain_sum(method: Method, **known: Any) -> PerModel | None:
    """The coefficients of a tensor that the maths does not cover; None where it does.

    `known`: the place, the number of models and the parameters.
    """
    if method.otherwise is None:
        return None
    found: PerModel | None = call(method.otherwise, **known)
    return found


def grain_of(method: Method, **known: Any) -> Grain:
    """The smallest piece of a tensor on which what is done with it is exact."""
    if plain_sum(method, **known) is not None:
        return "element"
    found: Grain = call(method.grain, **known)
    return found


def workspace_of(method: Method, models: int, place: Place | None = None) -> float:
    """Bytes beside a block, as a multiple of it; without a place, the most of any."""
    return float(call(method.workspace, count=models, place=place))
