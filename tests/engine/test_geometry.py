"""Pieces, runs and blocks cover a tensor exactly; leaves do not depend on the size of a block."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cermet.core.types import Grain
from cermet.engine.geometry import LEAF, Geometry, geometry

_GRAINS: tuple[Grain, ...] = ("element", "row", "column", "tensor", "matrix")
_shapes = st.lists(st.integers(0, 3000), min_size=0, max_size=3).filter(
    lambda shape: math.prod(shape) <= 40_000_000
)
_blocks = st.integers(1, 3_000_000)


def _covers(parts: list[tuple[int, int]], start: int, stop: int) -> bool:
    """Whether parts that are not empty follow each other from start to stop."""
    if not parts:
        return start == stop
    joined = all(a[1] == b[0] for a, b in pairwise(parts))
    return joined and (parts[0][0], parts[-1][1]) == (start, stop) and all(a < b for a, b in parts)


def _thinned(parts: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The first and the last few: pieces are alike."""
    return parts[:2] + parts[2:][-2:]


@given(_shapes, st.sampled_from(_GRAINS), _blocks)
@example([], "row", 1)
@example([0, 5], "row", 7)
@example([5, 0], "column", 7)
@example([2 * LEAF + 1], "element", LEAF)
@example([3, LEAF + 1], "row", 10)
def test_every_element_once(shape: list[int], grain: Grain, block: int) -> None:
    cut = geometry(tuple(shape), grain, block)
    pieces = cut.pieces()
    assert _covers(pieces, 0, math.prod(shape))
    for piece in _thinned(pieces):
        size = piece[1] - piece[0]
        if size // cut.block > 50_000:  # blocks of single elements, in full only where few
            piece = (piece[0], piece[0] + min(size, 50_000 // cut.leaf * cut.leaf or cut.leaf))
        runs = list(cut.runs(*piece))
        assert _covers(runs, *piece)
        assert _covers([b for run in runs for b in cut.blocks(*run)], *piece)
        assert _covers(list(cut.blocks(*piece)), *piece)


@given(_shapes, st.sampled_from(_GRAINS), _blocks)
def test_cuts_stand_where_they_may(shape: list[int], grain: Grain, block: int) -> None:
    """Units are never cut; leaves are cut only by blocks that are smaller than one."""
    cut = geometry(tuple(shape), grain, block)
    assert cut.leaf % cut.unit == 0
    assert cut.block % cut.unit == 0
    assert cut.block % cut.leaf == 0 or cut.block < cut.leaf
    assert cut.block <= max(block, cut.unit)
    assert all(start % cut.leaf == 0 for start, _ in cut.pieces())
    for piece in _thinned(cut.pieces()):
        runs = list(cut.runs(*piece)) if cut.leaf >= 1000 else []
        assert all(start % cut.leaf == 0 for start, _ in runs)


@given(_shapes, st.sampled_from(_GRAINS), _blocks, _blocks)
def test_the_block_decides_nothing(shape: list[int], grain: Grain, one: int, other: int) -> None:
    """Reductions and the journal see leaves and pieces, so these follow from the shape alone."""
    first, second = (geometry(tuple(shape), grain, block) for block in (one, other))
    assert (first.leaf, first.unit, first.pieces()) == (second.leaf, second.unit, second.pieces())
    assert first.sample() == second.sample()
    assert first.recut(other) == second


@pytest.mark.parametrize(
    ("grain", "unit", "length"),
    [("element", 1, None), ("row", 7, 7), ("column", 10, 10), ("tensor", 70, None)],
)
def test_units(grain: Grain, unit: int, length: int | None) -> None:
    cut = geometry((10, 7), grain, 1)
    assert (cut.unit, cut.length, cut.block) == (unit, length, unit)


@given(_shapes, st.sampled_from(_GRAINS))
def test_samples_are_a_small_part(shape: list[int], grain: Grain) -> None:
    cut = geometry(tuple(shape), grain, LEAF)
    sample = cut.sample()
    assert all(0 <= a < b <= cut.numel and a % cut.unit == 0 for a, b in sample)
    assert all(a[1] <= b[0] for a, b in pairwise(sample))
    assert sum(b - a for a, b in sample) <= cut.numel / 4


def test_a_row_longer_than_a_leaf_is_one() -> None:
    cut = geometry((3, LEAF + 1), "row", 10)
    assert isinstance(cut, Geometry)
    assert cut.leaf == cut.block == LEAF + 1
