"""RHT: what is kept, enlarged, elected, and divided by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from cermet import merge_tensors

Merge = Callable[..., Any]


def test_the_kept_are_divided_by_the_density(merge: Merge) -> None:
    assert merge("rht", [0.0] * 4, [[4, 1, 2, -8]], density=0.5) == [8.0, 0.0, 0.0, -16.0]


def test_those_that_agree_are_divided_by_their_number(merge: Merge) -> None:
    """Weights that add up to one are divided again: so it is in the authors' code."""
    experts = [[2, 2], [4, -1]]
    assert merge("rht", [0.0, 0.0], experts, density=1, weight=0.5) == [1.5, 1.0]


def test_election_by_how_much_or_by_how_many(merge: Merge) -> None:
    experts = [[5], [-1], [-2]]
    assert merge("rht", [0.0], experts, density=1) == [5.0]
    assert merge("rht", [0.0], experts, density=1, frequency=True) == [-1.5]


def test_a_share_of_less_than_one_entry_keeps_none(merge: Merge) -> None:
    assert merge("rht", [1.0], [[7]], density=0.5) == [1.0]


def test_what_is_kept_is_no_smaller_than_all_of_it() -> None:
    """The largest share d holds at least d of the size, and more where the tails are heavy."""
    own = torch.Generator().manual_seed(0)
    base = {"x": torch.zeros(400)}
    excess = []
    for power in (0, 1, 3):
        delta = torch.randn(400, generator=own).sign() * torch.rand(400, generator=own) ** power
        kept = merge_tensors("rht", base, [{"x": delta}], density=0.3)["x"]
        excess.append(float(kept.abs().sum() / delta.abs().sum()))
    assert excess[0] == pytest.approx(1.0, abs=1e-5)
    assert excess == sorted(excess)
