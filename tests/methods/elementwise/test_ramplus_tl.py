"""RAM+: how much stronger the changes of one expert alone become."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cermet import MethodError

Merge = Callable[..., Any]

# The first expert shares one place of its two; the second shares its only one.
EXPERTS = [[2, 4], [0, 2]]


def test_worked_by_hand(merge: Merge) -> None:
    """Shared over unique is 1 for the first expert, cut to alpha: 2 x (1 + 1 x 0.5)."""
    assert merge("ramplus_tl", [0.0, 0.0], EXPERTS, r=1.0, alpha=0.5) == [3.0, 3.0]


def test_the_ratio_below_alpha_counts_as_it_is(merge: Merge) -> None:
    """One shared, four alone: 1 + 2 x 1/4."""
    experts = [[2, 2, 2, 2, 4], [0, 0, 0, 0, 2]]
    assert merge("ramplus_tl", [0.0] * 5, experts, r=2, alpha=9) == [3.0] * 5


def test_every_expert_has_its_own_strength(merge: Merge) -> None:
    """The first shares 1 of 2, the second 1 of 3: ratios 1 and 1/2."""
    experts = [[8, 4, 0, 0], [0, 4, 8, 8]]
    assert merge("ramplus_tl", [0.0] * 4, experts, r=1, alpha=9) == [16.0, 4.0, 12.0, 12.0]


def test_the_defaults(merge: Merge) -> None:
    """r 0.1 and alpha 0.2: two in a hundred."""
    assert merge("ramplus_tl", [0.0, 0.0], EXPERTS) == [2.04, 3.0]


def test_an_expert_that_shares_nothing_stays_as_it_is(merge: Merge) -> None:
    assert merge("ramplus_tl", [0.0, 0.0], [[2, 0], [0, 4]], r=5) == [2.0, 4.0]


def test_a_negative_alpha_is_refused(merge: Merge) -> None:
    with pytest.raises(MethodError, match="alpha"):
        merge("ramplus_tl", [0.0, 0.0], EXPERTS, alpha=-1)
