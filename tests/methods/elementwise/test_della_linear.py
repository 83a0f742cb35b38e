"""DELLA without an election."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from cermet import merge_tensors

Merge = Callable[..., Any]


def test_worked_by_hand(merge: Merge) -> None:
    assert merge("della_linear", [1.0, 1.0], [[2, 4], [0, 2]], weight=1) == [1.0, 5.0]


def test_opposed_deltas_cancel(merge: Merge) -> None:
    assert merge("della_linear", [0.0], [[3.0], [-2.0]], weight=1) == [1.0]


def test_given_draws(merge: Merge) -> None:
    """Probabilities 0.25, 0.5, 0.75 by rank: kept are 3 (0.5 < 0.75) and -1 (0.2 < 0.25)."""
    noise = [[0.2, 0.5, 0.5]]
    given = {"weight": 2, "density": 0.5, "epsilon": 0.25, "noise": noise}
    assert merge("della_linear", [0.0] * 3, [[-1, 3, 2]], rescale=False, **given) == [-2, 6, 0]
    assert merge("della_linear", [0.0] * 3, [[-1, 3, 2]], **given) == [-3, 9, 0]


def test_normalize_divides_by_all_weights(merge: Merge) -> None:
    given = {"weight": [1, 3], "normalize": True}
    assert merge("della_linear", [0.0], [[2.0], [-2.0]], **given) == [-1.0]


def test_it_draws_the_masks_of_della() -> None:
    delta = {"x": torch.randn(20, 30, generator=torch.Generator().manual_seed(1))}
    zero = {"x": torch.zeros(20, 30)}
    given = {"weight": 1, "density": 0.4, "epsilon": 0.3, "seed": 8, "rescale": False}
    linear = merge_tensors("della_linear", zero, [delta], **given)["x"]
    elected = merge_tensors("della", zero, [delta], **given)["x"]
    assert torch.equal(linear, elected)
    assert not torch.equal(linear, delta["x"])
