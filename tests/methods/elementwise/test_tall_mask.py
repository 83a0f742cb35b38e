"""TALL-masks: which entries of the sum an expert gets, and what it is restored to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from cermet import merge_tensors
from tests.methods.forms import pool, same_bits

Merge = Callable[..., Any]

EXPERTS = [[1, 4, 0, 1], [1, 0, 0, -1], [1, 0, 2, 1]]


@pytest.mark.parametrize(
    ("task", "expected"), [(None, [3, 4, 2, 1]), (0, [3, 4, 0, 1]), (1, [3, 0, 0, 1])]
)
def test_an_expert_gets_what_it_needs(
    merge: Merge, task: int | None, expected: list[float]
) -> None:
    """All need the first, 1 > 0.4 x 2, and the last; the second only the first expert."""
    assert merge("tall_mask", [0.0] * 4, EXPERTS, task=task) == expected


def test_equality_is_not_enough(merge: Merge) -> None:
    """1 against 0.5 x 2."""
    assert merge("tall_mask", [0.0], [[1], [2]], threshold=0.5, task=0) == [0.0]
    assert merge("tall_mask", [0.0], [[1], [2]], threshold=0.49, task=0) == [3.0]


def test_thresholds_of_each_expert(merge: Merge) -> None:
    given = {"threshold": [0.5, 0.4]}
    assert merge("tall_mask", [0.0], [[1], [2]], task=0, **given) == [0.0]
    assert merge("tall_mask", [0.0], [[1], [2]], task=1, **given) == [3.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_one_expert_is_restored_bit_for_bit(dtype: torch.dtype) -> None:
    base, experts = pool(1, dtype=dtype)
    assert same_bits(merge_tensors("tall_mask", base, experts, task=0), experts[0])


def test_masks_shrink_as_the_threshold_grows() -> None:
    base, experts = pool(3, {"w": (50, 40)})

    def used(threshold: float) -> torch.Tensor:
        merged = merge_tensors("tall_mask", base, experts, threshold=threshold, task=1)
        return merged["w"] != base["w"]

    previous = used(0.0)
    assert bool((previous == (experts[1]["w"] != base["w"])).all())
    for threshold in (0.2, 0.4, 0.6, 2.0):
        kept = used(threshold)
        assert bool((kept <= previous).all())
        assert int(kept.sum()) < int(previous.sum())
        previous = kept
