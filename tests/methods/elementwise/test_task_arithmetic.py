"""Task arithmetic: addition, negation, analogy, and what it keeps of small deltas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from cermet import MethodError, merge_tensors

Merge = Callable[..., Any]


def test_addition(merge: Merge) -> None:
    found = merge("task_arithmetic", [1.0, 1.0], [[2.0, 1.0], [1.0, 3.0]], weight=0.5)
    assert found == [1.5, 2.0]


def test_negation(merge: Merge) -> None:
    assert merge("task_arithmetic", [1.0, 1.0], [[2.0, 0.5]], weight=-1) == [0.0, 1.5]


def test_analogy(merge: Merge) -> None:
    """A is to B as C is to D: the delta of C, plus what B has and A has not."""
    found = merge("task_arithmetic", [1.0], [[2.0], [5.0], [1.5]], weight=[-1, 1, 1])
    assert found == [1.0 + (5.0 - 2.0) + 0.5]


def test_lambda_is_a_factor_of_the_sum(merge: Merge) -> None:
    given = {"weight": [1, 2], "lambda": 0.5}
    assert merge("task_arithmetic", [1.0], [[3.0], [2.0]], **given) == [3.0]


def test_normalize_divides_by_the_weights(merge: Merge) -> None:
    found = merge("task_arithmetic", [1.0], [[3.0], [5.0]], weight=[1, 3], normalize=True)
    assert found == [4.5]


def test_weights_that_cancel_are_not_divided_by(merge: Merge) -> None:
    found = merge("task_arithmetic", [0.0], [[3.0], [5.0]], weight=[1, -1], normalize=True)
    assert found == [-2.0]


def test_small_deltas_of_bfloat16_models_add_up() -> None:
    """Each is a half unit of the base; in bfloat16 none of them would survive the addition."""
    base = {"x": torch.tensor([256.0], dtype=torch.bfloat16)}
    expert = {"x": torch.tensor([258.0], dtype=torch.bfloat16)}
    found = merge_tensors("task_arithmetic", base, [expert] * 4, weight=0.25)["x"]
    assert found.item() == 258


def test_what_mergekit_accepts_without_effect_is_accepted(merge: Merge) -> None:
    plain = merge("task_arithmetic", [1.0], [[3.0]], weight=1)
    assert merge("task_arithmetic", [1.0], [[3.0]], weight=1, density=0.1, int8_mask=True) == plain
    with pytest.raises(MethodError, match="Did you mean 'weight'"):
        merge("task_arithmetic", [1.0], [[3.0]], weigth=1)
