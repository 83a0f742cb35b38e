"""What a method may keep of each expert beside the merged tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["Bits", "Numbers", "Part"]


@dataclass(frozen=True, slots=True)
class Part:
    """What a merge leaves of each expert beside the merged tensor; it makes an assembly.

    Attributes
    ----------
    name: its key in what the merge returns, and the argument under which `restore` gets it.
    only: place and parameters -> whether a tensor has this part; all have it by default.
    """

    name: str
    only: Callable[..., bool] | None = None


@dataclass(frozen=True, slots=True)
class Bits(Part):
    """Zeros and ones [models, *block], kept as one bit for each element and expert."""


@dataclass(frozen=True, slots=True)
class Numbers(Part):
    """Numbers [models, *shape] of a whole tensor, as every block of it returns them.

    `shape` maps place and parameters to the shape for one expert. They are kept in the dtype
    of the merged tensor, or in float32 with `exact`. What is `shared` is kept once, for all
    experts together, and returned as [*shape]. With `by_row` the shape is that for one row of
    the tensor, each block of the grain "row" returns [models, rows, *shape] of its own rows, and
    `restore` gets those of its block.
    """

    shape: Callable[..., tuple[int, ...]] = field(default=lambda: ())
    exact: bool = False
    shared: bool = False
    by_row: bool = False
