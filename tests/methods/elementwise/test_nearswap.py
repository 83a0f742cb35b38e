"""NearSwap: the other's value up to a distance of t, and no farther."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from cermet import MethodError, merge_tensors

Merge = Callable[..., Any]


def test_worked_by_hand(merge: Merge) -> None:
    assert merge("nearswap", [0.0, 0.0], [[0.5, 4.0]], t=1.0) == [0.5, 1.0]


def test_no_element_moves_farther_than_t(merge: Merge) -> None:
    base, other = [1.0, -1.0, 2.0, 0.5], [1.25, -3.0, 9.0, 0.5]
    assert merge("nearswap", base, [other], t=0.5) == [1.25, -1.5, 2.5, 0.5]


def test_distances_below_a_millionth_count_as_one() -> None:
    """So at t = 1e-7 a tenth of this step is taken, not t itself."""
    step = 2.0**-21
    found = merge_tensors(
        "nearswap", {"x": torch.zeros(2)}, [{"x": torch.tensor([step, 0.0])}], t=1e-7
    )["x"]
    assert found.tolist() == pytest.approx([step / 10, 0.0], rel=1e-5)


def test_it_takes_one_other_model(merge: Merge) -> None:
    with pytest.raises(MethodError, match="2 experts"):
        merge("nearswap", [0.0], [[1.0], [2.0]], t=1)


def test_a_negative_t_is_refused(merge: Merge) -> None:
    with pytest.raises(MethodError, match="'t'"):
        merge("nearswap", [0.0], [[1.0]], t=-0.1)
