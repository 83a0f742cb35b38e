"""TIES in the authors' form: the threshold, the election and the divisor of Appendix B."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from cermet import merge_tensors

Merge = Callable[..., Any]


def test_one_entry_more_than_the_share_is_kept() -> None:
    """Of 100 distinct magnitudes and K = 0.2 the authors keep 21, mergekit 20."""
    delta = torch.arange(1.0, 101.0)
    found = merge_tensors("ties_official", {"x": torch.zeros(100)}, [{"x": delta}], density=0.2)
    assert int((found["x"] != 0).sum()) == 21
    assert found["x"][79:].tolist() == delta[79:].tolist()


def test_the_threshold_is_that_of_the_whole_model() -> None:
    """A tensor whose deltas are a hundredth of the others' is dropped whole."""
    base = {"large": torch.zeros(50), "small": torch.zeros(50)}
    expert = {"large": torch.arange(1.0, 51.0) * 100, "small": torch.arange(1.0, 51.0)}
    found = merge_tensors("ties_official", base, [expert], density=0.4)
    assert not found["small"].any()
    assert int((found["large"] != 0).sum()) == 41
    own = merge_tensors("ties", base, [expert], weight=1, density=0.4)
    assert int((own["small"] != 0).sum()) == 20


def test_the_election_is_not_weighted_and_divides_by_how_many_agree(merge: Merge) -> None:
    experts = [[3, 1, 0], [-2, 1, 0], [0, 4, 0]]
    assert merge("ties_official", [0.0] * 3, experts, density=1) == [3.0, 2.0, 0.0]
    assert merge("ties_official", [0.0] * 3, experts, density=1, normalize=False) == [3, 6, 0]


@pytest.mark.parametrize(("rest", "kept"), [([5, 5], 2.0), ([-5, -5], -2.0), ([5, -5], -2.0)])
def test_deltas_that_cancel_take_the_sign_of_the_majority(
    merge: Merge, rest: list[float], kept: float
) -> None:
    found = merge("ties_official", [0.0] * 3, [[2, *rest], [-2, *rest]], density=1)
    assert found[0] == kept


def test_all_that_equal_the_threshold_are_kept(merge: Merge) -> None:
    assert merge("ties_official", [0.0] * 4, [[1, -1, 1, 1]], density=0.25) == [1, -1, 1, 1]
