"""Exact order statistics of streamed values, by selection instead of sorting.

A sample of the values gives a narrow bracket around each wanted order statistic. One
pass then counts what lies above the bracket and keeps what lies inside it; if the
statistic is inside (nearly always), it is read off the few values that were kept. If
not, the pass has told on which side it is, and the next pass has a better bracket.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cermet.maths import native

__all__ = [
    "Bracket",
    "Cutoff",
    "Floats",
    "Found",
    "Tally",
    "bracket",
    "conclude",
    "kept_mask",
    "tally",
]

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

    def with_ties(self) -> Cutoff:
        """The same thresholds, with every value that equals them kept."""
        return Cutoff(self.value, tuple(tuple(sys.maxsize for _ in row) for row in self.end))

    def without_ties(self) -> Cutoff:
        """The same thresholds, with no value that equals them kept."""
        return Cutoff(self.value, tuple(tuple(-sys.maxsize for _ in row) for row in self.end))

    def at(self, start: int) -> Cutoff:
        """The same cutoff for a block that begins at flat index `start`."""
        return Cutoff(self.value, tuple(tuple(e - start for e in row) for row in self.end))


def kept_mask(values: torch.Tensor, cutoff: Cutoff, row: int = 0, cut: int = 0) -> torch.Tensor:
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
    """What one pass over one piece of a row has seen of one bracket.

    Lists count leaf by leaf, to locate ties later. The bounds are counted by themselves:
    differences of bfloat16 weights take few values, so a bound may stand for a tenth of all.
    """

    above: int
    top: list[int]  # equal to the upper bound
    inside: list[int]  # between the bounds
    bottom: list[int]  # equal to the lower bound
    kept: Floats  # those between the bounds
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
    if sample.size == 0 or sample.size >= count:
        return Bracket(-_INFINITY, _INFINITY)
    share = rank / count
    middle = share * sample.size
    slack = _SLACK * math.sqrt(sample.size * share * (1 - share)) + 8
    # the places of the bounds in ascending order; those outside of the sample bound nothing
    first = sample.size - 1 - math.floor(middle - slack)
    last = sample.size - 1 - math.ceil(middle + slack)
    wanted = [place for place in (last, first) if 0 <= place < sample.size]
    ordered = np.partition(sample, wanted) if wanted else sample
    high = ordered[first] if first < sample.size else _INFINITY
    low = ordered[last] if last >= 0 else -_INFINITY
    return Bracket(np.float32(low), np.float32(high))


def tally(
    values: torch.Tensor, at: Bracket, leaf: int, cap: int, *, nonzero: bool = False
) -> Tally:
    """Count and keep what a pass needs of the 1-D `values`, which are whole leaves.

    At most `cap` values are kept; where more are inside, they only narrow the bracket.
    """
    rows = None if values.is_cuda else native.stored([values])
    if rows is not None:
        (told,), _ = rows.tallied("value", [(0, float(at.low), float(at.high))], leaf, cap)
        filled = told.nonzero if nonzero else 0
        return Tally(told.above, told.top, told.inside, told.bottom, told.kept, filled)
    # NumPy's comparisons are several times faster than torch's on the CPU; on a GPU the
    # masks stay there, and only the few values inside the bracket are brought back.
    array: Any = values if values.is_cuda else values.numpy()
    none = [0] * len(range(0, len(array), leaf))
    one = at.low == at.high
    bounded = at.high < _INFINITY
    above = _count(array > at.high) if bounded else 0
    top = _by_leaf(array == at.high, leaf) if bounded and not one else none
    bottom = _by_leaf(array == at.low, leaf) if at.low > -_INFINITY else none
    inside = none
    kept = np.empty(0, np.float32)
    if not one:
        between = array > at.low
        if bounded:
            between &= array < at.high
        inside = _by_leaf(between, leaf)
        kept = array[between][:cap]
        kept = kept.cpu().numpy() if values.is_cuda else kept
    return Tally(above, top, inside, bottom, kept, _count(array != 0) if nonzero else 0)


def _by_leaf(mask: Any, leaf: int) -> list[int]:
    return [_count(mask[start : start + leaf]) for start in range(0, len(mask), leaf)]


def _count(mask: Any) -> int:
    return int(mask.sum()) if isinstance(mask, torch.Tensor) else int(np.count_nonzero(mask))


def conclude(tallies: list[Tally], at: Bracket, rank: int) -> Found | Bracket:
    """The rank-th largest value after a pass, or the bracket for the next pass."""
    above = sum(t.above for t in tallies)
    top = [n for t in tallies for n in t.top]
    inside = [n for t in tallies for n in t.inside]
    bottom = [n for t in tallies for n in t.bottom]
    if above >= rank:
        floor = np.nextafter(at.high, _INFINITY)
        return Bracket(floor, at.ceiling, floor, at.ceiling)
    wanted = rank - above
    if wanted <= sum(top):
        return _locate(top, at.high, wanted)
    wanted -= sum(top)
    if wanted <= sum(inside):
        return _select(np.concatenate([t.kept for t in tallies]), inside, at, wanted)
    wanted -= sum(inside)
    if wanted <= sum(bottom):
        return _locate(bottom, at.low, wanted)
    ceiling = np.nextafter(at.low, -_INFINITY)
    return Bracket(at.floor, ceiling, at.floor, ceiling)


def _select(kept: Floats, inside: list[int], at: Bracket, wanted: int) -> Found | Bracket:
    """The wanted-th largest of the values between the bounds, of which `kept` may be a part."""
    if kept.size < sum(inside):
        return _narrow(kept, wanted, sum(inside), at)
    value = np.partition(kept, kept.size - wanted)[kept.size - wanted]
    tie = wanted - int(np.count_nonzero(kept > value))
    places = np.flatnonzero(kept == value)
    if tie == places.size:
        return Found(value, tie)
    ends = np.cumsum(inside)
    leaf = int(np.searchsorted(ends, places[tie - 1], side="right"))
    before = int(np.count_nonzero(places < ends[leaf] - inside[leaf]))
    return Found(value, tie, leaf, tie - before)


def _narrow(kept: Floats, wanted: int, inside: int, at: Bracket) -> Bracket:
    """A tighter bracket from a part of the values of an overfull one."""
    guess = bracket(kept, wanted, inside)
    low, high = max(guess.low, at.low), min(guess.high, at.high)
    if low == at.low and high == at.high:
        # It cannot be narrowed from both sides: look at the likeliest value alone.
        place = min(kept.size * wanted // inside, kept.size - 1)
        low = high = np.sort(kept)[::-1][place]
    return Bracket(np.float32(low), np.float32(high), at.floor, at.ceiling)


def _locate(ties: list[int], value: np.float32, tie: int) -> Found:
    """The last tie that is kept, where only the number of ties in each leaf is known."""
    ends = np.cumsum(ties)
    if tie == ends[-1]:
        return Found(value, tie)
    leaf = int(np.searchsorted(ends, tie))
    return Found(value, tie, leaf, tie - int(ends[leaf]) + ties[leaf])
