"""Exact order statistics of streamed values, by selection instead of sorting.

A sample of the values gives a narrow bracket around each wanted order statistic. One
pass then counts what lies above the bracket and keeps what lies inside it; if the
statistic is inside (nearly always), it is read off the few values that were kept. If
not, the pass has told on which side it is, and the next pass has a better bracket.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["Bracket", "Cutoff", "Found", "Tally", "bracket", "conclude", "kept_mask", "tally"]

Floats = npt.NDArray[np.float32]
_INFINITY = np.float32(np.inf)
_SLACK = 5.0  # half-width of a bracket, in standard deviations of a sample's rank


@dataclass(frozen=True, slots=True)
class Cutoff:
    """Exactly k values are kept: those above `value`, and of those equal to it the first.

    value[row][cut]: the k-th largest value of the row; +inf keeps nothing, -inf everything.
    end[row][cut]: flat index, relative to the block at hand, from which on a value that
    equals the threshold is no longer kept.
    """

    value: tuple[tuple[float, ...], ...]
    end: tuple[tuple[int, ...], ...]

    def at(self, start: int) -> Cutoff:
        """The same cutoff for a block that begins at flat index `start`."""
        return Cutoff(self.value, tuple(tuple(e - start for e in row) for row in self.end))


def kept_mask(values: Tensor, cutoff: Cutoff, row: int = 0, cut: int = 0) -> Tensor:
    """1.0 for the values [*block] of one row that the cutoff keeps, else 0.0."""
    flat = values.reshape(-1)
    mask = torch.empty_like(flat)
    threshold = cutoff.value[row][cut]
    split = min(max(cutoff.end[row][cut], 0), flat.numel())
    torch.ge(flat[:split], threshold, out=mask[:split])
    torch.gt(flat[split:], threshold, out=mask[split:])
    return mask.reshape(values.shape)


@dataclass(frozen=True, slots=True)
class Bracket:
    """Where one order statistic is looked for next, and what is known for certain.

    low, high: bounds, both inclusive, of the next look: a guess.
    floor, ceiling: bounds, both inclusive, proved by earlier looks.
    """

    low: np.float32
    high: np.float32
    floor: np.float32 = -_INFINITY
    ceiling: np.float32 = _INFINITY


@dataclass(slots=True)
class Tally:
    """What one pass over one piece of a row has seen of one bracket."""

    above: int
    inside: int
    kept: Floats
    leaves: list[int]  # how many inside, leaf by leaf: locates ties later
    nonzero: int = 0


@dataclass(slots=True)
class Found:
    """An order statistic: its value, how many values are above it, and which ties count.

    `tie` is the number of values equal to it that are kept, counted from the front;
    `leaf` and `within` say in which leaf the last of them is, and which of that leaf's
    ties; None where every tie is kept.
    """

    value: np.float32
    tie: int
    leaf: int | None = None
    within: int = 0


def bracket(sample: Floats, rank: int, count: int) -> Bracket:
    """Where the rank-th largest of `count` values should be, judged by a sample of them."""
    ordered = np.sort(sample)[::-1]
    if ordered.size == 0 or ordered.size >= count:
        return Bracket(-_INFINITY, _INFINITY)
    share = rank / count
    middle = share * ordered.size
    slack = _SLACK * math.sqrt(ordered.size * share * (1 - share)) + 8
    first, last = math.floor(middle - slack), math.ceil(middle + slack)
    high = ordered[first] if first >= 0 else _INFINITY
    low = ordered[last] if last < ordered.size else -_INFINITY
    return Bracket(np.float32(low), np.float32(high))


def tally(values: Tensor, at: Bracket, leaf: int, cap: int, *, nonzero: bool = False) -> Tally:
    """Count and keep what a pass needs of the 1-D `values`, which are whole leaves.

    At most `cap` values are kept; where more are inside, they only narrow the bracket.
    """
    # NumPy's comparisons are several times faster than torch's on the CPU; on a GPU the
    # masks stay there, and only the few values inside the bracket are brought back.
    array: Any = values if values.is_cuda else values.numpy()
    above = _count(array > at.high) if at.high < _INFINITY else 0
    inside = array >= at.low
    if at.high < _INFINITY:
        inside &= array <= at.high
    leaves = [_count(inside[s : s + leaf]) for s in range(0, len(array), leaf)]
    kept = np.empty(0, np.float32)
    if at.low < at.high:  # equal bounds need no values, only their number
        kept = array[inside][:cap]
        kept = kept.cpu().numpy() if values.is_cuda else kept
    return Tally(above, sum(leaves), kept, leaves, _count(array != 0) if nonzero else 0)


def _count(mask: Any) -> int:
    return int(mask.sum()) if isinstance(mask, Tensor) else int(np.count_nonzero(mask))


def conclude(tallies: list[Tally], at: Bracket, rank: int) -> Found | Bracket:
    """The rank-th largest value after a pass, or the bracket for the next pass."""
    above = sum(t.above for t in tallies)
    inside = sum(t.inside for t in tallies)
    if above >= rank:
        floor = np.nextafter(at.high, _INFINITY)
        return Bracket(floor, at.ceiling, floor, at.ceiling)
    if above + inside < rank:
        ceiling = np.nextafter(at.low, -_INFINITY)
        return Bracket(at.floor, ceiling, at.floor, ceiling)
    if at.low == at.high:
        return _locate(tallies, at.low, rank - above, inside)
    kept = np.concatenate([t.kept for t in tallies])
    if kept.size < inside:
        return _narrow(kept, rank - above, inside, at)
    wanted = rank - above
    value = np.partition(kept, kept.size - wanted)[kept.size - wanted]
    tie = wanted - int(np.count_nonzero(kept > value))
    ties = int(np.count_nonzero(kept == value))
    if tie == ties:
        return Found(value, tie)
    position = int(np.flatnonzero(kept == value)[tie - 1])
    return _in_leaf(tallies, value, tie, position, kept)


def _narrow(kept: Floats, wanted: int, inside: int, at: Bracket) -> Bracket:
    """A tighter bracket from a part of the values of an overfull one."""
    guess = bracket(kept, wanted, inside)
    low, high = max(guess.low, at.low), min(guess.high, at.high)
    if low == at.low and high == at.high:
        # It cannot be narrowed from both sides: look at the likeliest value alone.
        place = min(kept.size * wanted // inside, kept.size - 1)
        low = high = np.sort(kept)[::-1][place]
    return Bracket(np.float32(low), np.float32(high), at.floor, at.ceiling)


def _locate(tallies: list[Tally], value: np.float32, tie: int, ties: int) -> Found:
    """The last tie that is kept, where only the number of ties in each leaf is known."""
    if tie == ties:
        return Found(value, tie)
    seen = 0
    for index, count in enumerate(n for t in tallies for n in t.leaves):
        if seen + count >= tie:
            return Found(value, tie, index, tie - seen)
        seen += count
    raise AssertionError("more ties wanted than counted")


def _in_leaf(
    tallies: list[Tally], value: np.float32, tie: int, position: int, kept: Floats
) -> Found:
    """The leaf of the kept value at `position`, and which of the leaf's ties it is."""
    begin = 0
    for index, count in enumerate(n for t in tallies for n in t.leaves):
        if position < begin + count:
            within = int(np.count_nonzero(kept[begin : position + 1] == value))
            return Found(value, tie, index, within)
        begin += count
    raise AssertionError("a kept value outside of every leaf")
