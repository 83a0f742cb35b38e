"""VaRM: shares of the change, tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Merge = Callable[..., Any]


def test_experts_of_different_size_get_different_weights(merge: Merge) -> None:
    assert merge("varm", [0.0, 0.0], [[3, 0], [0, 1]]) == [2.7, 0.1]


def test_an_expert_that_is_the_pivot_counts_for_nothing(merge: Merge) -> None:
    assert merge("varm", [1.0, 2.0], [[1, 2], [5, 0]]) == [5.0, 0.0]


def test_a_tensor_that_no_one_changed(merge: Merge) -> None:
    assert merge("varm", [1.0, 2.0], [[1, 2], [1, 2]]) == [1.0, 2.0]
