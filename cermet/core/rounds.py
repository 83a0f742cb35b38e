"""The passes over a tensor, or over a whole model, that a method may ask for before it merges."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from cermet.core.errors import MethodError

__all__ = ["Fit", "Gram", "Kth", "Round", "Rows", "Scope", "Sum"]

Scope = Literal["tensor", "layer", "model"]
"""What a round is reduced over; tensors outside of all layers are one more layer."""


@dataclass(frozen=True, slots=True)
class Round:
    """A pass over the blocks of a tensor before the merge.

    Attributes
    ----------
    name: the argument under which later rounds, `fit` and `merge` receive the result.
    of: block, state and parameters -> values [..., *block]; pure.
    when: parameters -> whether the round is needed; its result is None where it is not.
    scope: what is reduced over: one tensor, every tensor of its layer (not for a Kth), or every
        tensor that the method merges. The parameters that a round over more than a tensor reads
        must be the same for all of them.
    only: place and parameters -> whether a tensor takes part in such a round.
    """

    name: str
    of: Callable[..., Any] | None = None
    when: Callable[..., bool] | None = None
    scope: Scope = "tensor"
    only: Callable[..., bool] | None = None
    reads: ClassVar[bool] = True  # whether the inputs are read for it


@dataclass(frozen=True, slots=True)
class Sum(Round):
    """Sums of `of` over the tensor: a float64 tensor [...].

    arrays: a NumPy array in its place, for a fit that needs no torch. Where that goes for all of
    a method, and its values are ones that the compiled kernels make, torch is never imported.
    """

    arrays: bool = False


@dataclass(frozen=True, slots=True)
class Gram(Round):
    """Inner products between the models over the tensor: a float64 tensor [models, models].

    arrays: as for a Sum.
    """

    arrays: bool = False


@dataclass(frozen=True, slots=True)
class Rows(Round):
    """Values of `of` [..., vectors] for each row (or column, by the grain) of a tensor: Vectors.

    `fit` gets all of them; the merge gets, as a tensor [..., vectors], those of its block.
    """


@dataclass(frozen=True, slots=True)
class Kth(Round):
    """Exact order statistics of `of` [rows, *block] over the tensor: a Cutoff.

    `rank` maps parameters (and `numel`, the number of elements in the scope, and `nonzero`,
    the number of non-zero values of each row) to how many of the largest values are kept:
    [rows][cuts] whole numbers. Where all are kept, the cutoff is -infinity, or the smallest
    value with `smallest`.
    """

    rank: Callable[..., Sequence[Sequence[int]]] = field(default=lambda: ())
    smallest: bool = False

    def __post_init__(self) -> None:
        """Refuse what the search is not made for."""
        if self.scope == "layer":
            raise MethodError(
                f"The round '{self.name}' is a Kth over a layer; it takes scope='tensor' or "
                "'model'."
            )


@dataclass(frozen=True, slots=True)
class Fit(Round):
    """What `of` makes of the state so far, as further state; nothing is read.

    The fit of a step of a pipeline, which the rounds of the next step build on.
    """

    reads: ClassVar[bool] = False
