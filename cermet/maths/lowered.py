"""What a function on blocks computes, said as data, so that an engine can do it in one pass.

A function stays the definition: what is said of it here only lets the compiled kernels do
the same on tensors as they are stored, with the same bits. Where they cannot, it is called.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from cermet.maths.native import Statistic
from cermet.maths.select import Cutoff

__all__ = [
    "Above",
    "Chance",
    "Combination",
    "Norms",
    "Ordered",
    "Ranked",
    "lowered",
    "lowering",
]

_Function = TypeVar("_Function", bound=Callable[..., Any])
_known: dict[Callable[..., Any], object] = {}


@dataclass(frozen=True, slots=True)
class Ordered:
    """Of a function that order statistics are taken of: which statistic of the deltas it is."""

    statistic: Statistic


@dataclass(frozen=True, slots=True)
class Norms:
    """Of a function that is summed up: |δ|ᵖ of each model, and behind them of what is kept.

    keep: the argument that says what is kept: "cutoff" or "mask". Without `before` the values
    are those of what is kept alone.
    """

    keep: Literal["cutoff", "mask"]
    power: Literal[1, 2] = 1
    before: bool = True


@dataclass(frozen=True, slots=True)
class Chance:
    """Of a mask: each entry of a model is kept with the model's `density`."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """Of a mask: with a probability that grows with the rank in the row (`rank_mask`)."""


@dataclass(frozen=True, slots=True)
class Above:
    """Of a mask: where the variance passes a cutoff of that name; everywhere where it is None."""

    cutoff: str


@dataclass(frozen=True, slots=True)
class Combination:
    """A merge: the weighted sum of what is kept of the deltas, or an election among them.

    The arguments are those of `combine.weighted_sum`, and with `shares` those of
    `combine.consensus`; with `masked` the method's mask says what is kept.
    """

    factors: Sequence[float]
    shares: Sequence[float] | None = None
    keep: Cutoff | None = None
    masked: bool = False
    normalize: bool = False
    scale: float = 1.0
    equal_votes: bool = False


def lowered(what: object) -> Callable[[_Function], _Function]:
    """Say of a function what it computes; the function is returned unchanged."""

    def register(function: _Function) -> _Function:
        _known[function] = what
        return function

    return register


def lowering(function: Callable[..., Any] | None) -> object:
    """What was said of a function, else None."""
    return None if function is None else _known.get(function)
