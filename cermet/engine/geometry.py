"""How a tensor is cut: leaves, pieces and blocks.

A *leaf* is fixed by the tensor's shape and the method's grain alone; reductions are made
of whole leaves, in order, so they never depend on how the work was cut. A *piece* is a
run of leaves: what one worker does at a time, and what the journal records. A *block* is
what is in memory at once: some leaves, or a part of one when memory is short.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from cermet.core.types import Grain

__all__ = ["LEAF", "Geometry", "geometry"]

LEAF = 65_536
"""Elements of one leaf, where the grain is an element."""

_PIECE = 1 << 20  # elements of one piece, about


@dataclass(frozen=True, slots=True)
class Geometry:
    """The cut of one tensor. All positions are flat indices, in units of elements.

    unit: elements that must stay together (1, or the length of a row or column).
    leaf: elements of a leaf, a multiple of the unit.
    block: elements of a block: a multiple of the leaf, or of the unit and less than a leaf.
    length: length of the rows that the method sees; None where it sees flat blocks.
    """

    numel: int
    unit: int
    leaf: int
    block: int
    grain: Grain
    length: int | None

    def pieces(self) -> list[tuple[int, int]]:
        """Runs of whole leaves of about a million elements: [start, stop)."""
        size = max(1, _PIECE // self.leaf) * self.leaf
        return [(s, min(s + size, self.numel)) for s in range(0, self.numel, size)]

    def runs(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Runs of whole leaves inside a piece, each as large as a block (or one leaf)."""
        size = max(self.block, self.leaf)
        for begin in range(start, stop, size):
            yield begin, min(begin + size, stop)

    def blocks(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Blocks of a piece or of a run."""
        for begin in range(start, stop, self.block):
            yield begin, min(begin + self.block, stop)

    def recut(self, block: int) -> Geometry:
        """The same tensor in blocks of about so many elements; a matrix stays one block."""
        if self.grain == "matrix":
            return self
        fitted = max(1, block // self.unit) * self.unit
        if fitted >= self.leaf:
            fitted = fitted // self.leaf * self.leaf
        return replace(self, block=fitted)

    def sample(self) -> list[tuple[int, int]]:
        """A few blocks spread evenly over the tensor; none where it is small."""
        size = max(self.unit, 2048 // self.unit * self.unit)
        count = min(32, max(1, LEAF // size))
        if self.numel <= 4 * size * count or self.numel <= 2 * LEAF:
            return []
        step = self.numel // count // self.unit * self.unit
        return [(i * step, i * step + size) for i in range(count)]


def geometry(shape: tuple[int, ...], grain: Grain, block: int) -> Geometry:
    """Cut a tensor of this shape for a method of this grain into blocks of about `block`."""
    numel = math.prod(shape)
    length: int | None = None
    unit = 1
    if grain == "row":
        length = unit = shape[-1] if shape else 1
    elif grain == "column":
        length = unit = shape[0] if shape else 1
    elif grain == "matrix":
        length, unit = (*shape, 1)[len(shape) - 1], max(1, math.prod(shape[-2:]))
        return Geometry(numel, unit, unit, unit, grain, length)
    elif grain == "tensor":
        unit = max(1, numel)
    unit = max(1, unit)
    leaf = max(1, LEAF // unit) * unit
    return Geometry(numel, unit, leaf, leaf, grain, length).recut(block)
