"""MetaGPT: shares of the squared norm, over the whole model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from cermet import merge_tensors

Merge = Callable[..., Any]


def test_shares_are_those_of_the_whole_model() -> None:
    """Energies 9 and 1 in all: both tensors take 0.9 and 0.1, not their own shares."""
    base = {"a": torch.zeros(1), "b": torch.zeros(1)}
    experts = [
        {"a": torch.tensor([3.0]), "b": torch.zeros(1)},
        {"a": torch.zeros(1), "b": torch.ones(1)},
    ]
    found = merge_tensors("metagpt", base, experts)
    assert found["a"].item() == pytest.approx(2.7)
    assert found["b"].item() == pytest.approx(0.1)
    own = merge_tensors("varm", base, experts)
    assert (own["a"].item(), own["b"].item()) == (3.0, 1.0)


def test_of_one_tensor_it_is_varm(merge: Merge) -> None:
    experts = [[1, -2, 3], [0.5, 4, 1]]
    assert merge("metagpt", [0.0] * 3, experts) == merge("varm", [0.0] * 3, experts)


def test_experts_that_have_not_moved(merge: Merge) -> None:
    assert merge("metagpt", [1.0, 2.0], [[1, 2], [1, 2]]) == [1.0, 2.0]


def test_the_ratio_grows_with_the_square_of_the_scale(merge: Merge) -> None:
    assert merge("metagpt", [0.0, 0.0], [[3, 0], [0, 1]]) == [2.7, 0.1]
