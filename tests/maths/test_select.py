"""Selection: the k-th largest value and the ties that are kept, against a sort by NumPy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cermet.maths.select import Bracket, Cutoff, Found, Tally, bracket, conclude, kept_mask, tally

Floats = npt.NDArray[np.float32]


def _look(values: Floats, at: Bracket, leaf: int, piece: int, cap: int) -> list[Tally]:
    """One pass, in pieces of several leaves."""
    whole = torch.from_numpy(values)
    return [tally(whole[s : s + piece], at, leaf, cap) for s in range(0, len(values), piece)]


def _select(
    values: Floats,
    rank: int,
    *,
    leaf: int = 4,
    leaves: int = 2,
    cap: int = 1 << 20,
    sample: int = 0,
) -> tuple[Found, int]:
    """The rank-th largest value, and in how many passes it was found."""
    seen = values[:: max(1, len(values) // sample)] if sample else np.empty(0, np.float32)
    at = bracket(seen, rank, len(values))
    for passes in range(1, 60):
        outcome = conclude(_look(values, at, leaf, leaf * leaves, cap), at, rank)
        if isinstance(outcome, Found):
            return outcome, passes
        at = outcome
    raise AssertionError("not found in 60 passes")


def _end(values: Floats, found: Found, leaf: int) -> int:
    """The flat index behind the last tie that is kept, as the engine finds it."""
    if found.leaf is None:
        return len(values)
    start = found.leaf * leaf
    ties = np.flatnonzero(values[start : start + leaf] == found.value)
    return start + int(ties[found.within - 1]) + 1


def _check(values: Floats, rank: int, leaf: int, found: Found) -> None:
    """The value is that of a sort; exactly `rank` are kept, of equal ones the first."""
    order = np.argsort(-values, kind="stable")
    assert found.value == values[order[rank - 1]]
    assert found.tie == int((values[order[:rank]] == found.value).sum())
    cutoff = Cutoff(((float(found.value),),), ((_end(values, found, leaf),),))
    kept = kept_mask(torch.from_numpy(values), cutoff)
    assert kept.nonzero().flatten().tolist() == sorted(order[:rank].tolist())


_NUMBERS = st.one_of(
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=90),
    st.lists(st.sampled_from([0.0, 1.0, 1.5, -2.0]), min_size=1, max_size=90),
)


@given(numbers=_NUMBERS, share=st.floats(0, 1), leaf=st.integers(1, 9), leaves=st.integers(1, 4))
def test_it_equals_a_sort(numbers: Sequence[float], share: float, leaf: int, leaves: int) -> None:
    values = np.array(numbers, dtype=np.float32)
    rank = 1 + int(share * (len(values) - 1))
    found, passes = _select(values, rank, leaf=leaf, leaves=leaves)
    _check(values, rank, leaf, found)
    assert passes == 1


@given(numbers=_NUMBERS, share=st.floats(0, 1), cap=st.integers(1, 6), sample=st.integers(0, 9))
def test_little_memory_costs_passes_and_nothing_else(
    numbers: Sequence[float], share: float, cap: int, sample: int
) -> None:
    """At most `cap` values of a piece are kept; the brackets come from any sample."""
    values = np.array(numbers, dtype=np.float32)
    rank = 1 + int(share * (len(values) - 1))
    found, _ = _select(values, rank, cap=cap, sample=sample)
    _check(values, rank, 4, found)


@pytest.mark.parametrize("density", [0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_good_sample_needs_one_pass(density: float) -> None:
    values = np.abs(np.random.default_rng(0).standard_t(3, 200_000)).astype(np.float32)
    rank = int(density * len(values))
    found, passes = _select(values, rank, leaf=8192, leaves=4, sample=4000)
    _check(values, rank, 8192, found)
    assert passes == 1


def test_a_misleading_sample_is_corrected() -> None:
    """The sample holds small values only; the bracket then lies far below the median."""
    values = np.linspace(1, 2, 10_000, dtype=np.float32)
    at = bracket(values[:100], 5000, 10_000)
    assert at.high < np.median(values)
    passes = 0
    outcome: Found | Bracket = at
    while isinstance(outcome, Bracket):
        at, passes = outcome, passes + 1
        outcome = conclude(_look(values, at, 500, 1000, 1 << 20), at, 5000)
    _check(values, 5000, 500, outcome)
    assert passes == 2


def test_bounds_that_were_proved_only_get_tighter() -> None:
    values = np.linspace(0, 1, 5000, dtype=np.float32)
    at = bracket(values[4000::7], 4500, 5000)
    while isinstance(outcome := conclude(_look(values, at, 100, 500, 40), at, 4500), Bracket):
        assert outcome.floor >= at.floor
        assert outcome.ceiling <= at.ceiling
        assert outcome.low <= outcome.high
        at = outcome
    _check(values, 4500, 100, outcome)


@given(st.lists(st.floats(0, 9, width=32), min_size=2, max_size=300), st.floats(0, 1))
def test_a_bracket_of_a_sample_is_in_order(numbers: list[float], share: float) -> None:
    found = bracket(np.array(numbers, np.float32), int(share * 1000), 1000)
    assert found.low <= found.high


def test_without_a_sample_everything_is_inside() -> None:
    found = bracket(np.empty(0, np.float32), 3, 10)
    assert (found.low, found.high) == (-math.inf, math.inf)


def test_nonzero_values_are_counted_on_the_way() -> None:
    values = torch.tensor([0.0, 1, 0, -0.0, 2])
    at = Bracket(np.float32(-np.inf), np.float32(np.inf))
    assert tally(values, at, 2, 10, nonzero=True).nonzero == 2
    assert tally(values, at, 2, 10).inside == [2, 2, 1]


def test_values_at_the_bounds_are_counted_and_not_kept() -> None:
    values = torch.tensor([3.0, 1, 2, 3, 0, 1, 5])
    seen = tally(values, Bracket(np.float32(1), np.float32(3)), 2, 10)
    assert (seen.above, seen.top, seen.inside) == (1, [1, 1, 0, 0], [0, 1, 0, 0])
    assert seen.bottom == [1, 0, 1, 0]
    assert seen.kept.tolist() == [2.0]


@pytest.mark.parametrize("rank", range(1, 8))
def test_ties_at_the_bounds_are_found_in_their_leaves(rank: int) -> None:
    """Ranks 2 and 3 are the upper bound, 4 lies between, 5 and 6 are the lower bound."""
    values = torch.tensor([3.0, 1, 2, 3, 0, 1, 5])
    at = Bracket(np.float32(1), np.float32(3))
    found = conclude([tally(values[:4], at, 2, 10), tally(values[4:], at, 2, 10)], at, rank)
    expected = {
        2: Found(np.float32(3), 1, 0, 1),
        3: Found(np.float32(3), 2),
        4: Found(np.float32(2), 1),
        5: Found(np.float32(1), 1, 0, 1),
        6: Found(np.float32(1), 2),
    }
    if rank in expected:
        assert found == expected[rank]
    else:
        assert isinstance(found, Bracket)  # the next look is on the right side of this one
        assert found.low > at.high if rank == 1 else found.high < at.low


@pytest.mark.parametrize(("value", "kept"), [(math.inf, 0), (-math.inf, 4)])
def test_cutoffs_that_keep_nothing_or_everything(value: float, kept: int) -> None:
    cutoff = Cutoff(((value,),), ((0 if value > 0 else 4,),))
    assert float(kept_mask(torch.zeros(2, 2), cutoff).sum()) == kept


def test_a_cutoff_moves_with_the_block() -> None:
    """Ties of a later block that lie behind the last one are not kept."""
    values = torch.tensor([1.0, 2, 2, 2, 3, 2])
    cutoff = Cutoff(((2.0,),), ((3,),))
    whole = kept_mask(values, cutoff)
    assert whole.tolist() == [0, 1, 1, 0, 1, 0]
    for cut in range(1, 6):
        parts = (kept_mask(values[:cut], cutoff), kept_mask(values[cut:], cutoff.at(cut)))
        assert torch.equal(torch.cat(parts), whole)
