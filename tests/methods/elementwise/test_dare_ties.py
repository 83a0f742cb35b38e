"""DARE with an election: the sign is that of what survived."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from cermet import merge_tensors

Merge = Callable[..., Any]


def test_worked_by_hand(merge: Merge) -> None:
    assert merge("dare_ties", [0.0, 0.0], [[2, 4], [-1, 1]], weight=1) == [2.0, 5.0]


def test_the_election_is_among_the_survivors(merge: Merge) -> None:
    """The strong 9 is dropped at the first place, so the weak -1 wins there."""
    given = {"weight": 1, "density": 0.5, "rescale": False}
    experts, noise = [[9, 9], [-1, -1]], [[0.8, 0.3], [0.1, 0.2]]
    assert merge("dare_ties", [0.0, 0.0], experts, noise=noise, **given) == [-1.0, 9.0]


def test_rescaled_before_the_election(merge: Merge) -> None:
    """The first expert's 2 carries its dropped 2 too: 4 beats 3, as 2 would not."""
    noise = [[0.1, 0.9], [0.1, 0.1]]
    given = {"weight": 1, "density": 0.5, "noise": noise}
    assert merge("dare_ties", [0.0, 0.0], [[2, 2], [-3, 0]], **given) == [4.0, 0.0]
    assert merge("dare_ties", [0.0, 0.0], [[2, 2], [-3, 0]], rescale=False, **given) == [-3.0, 0.0]


def test_normalize_divides_by_the_weights_that_agree(merge: Merge) -> None:
    given = {"weight": [1, 3], "normalize": True}
    assert merge("dare_ties", [0.0, 0.0], [[2, 4], [-1, 8]], **given) == [-1.0, 7.0]


def test_it_draws_the_masks_of_dare_linear() -> None:
    """One expert leaves nothing to elect."""
    delta = torch.randn(500, generator=torch.Generator().manual_seed(1))
    zero = {"x": torch.zeros(500)}
    one, other = (
        merge_tensors(method, zero, [{"x": delta}], weight=1, density=0.4, seed=8)["x"]
        for method in ("dare_linear", "dare_ties")
    )
    assert torch.equal(one, other)
    assert 0 < int((one == 0).sum()) < 500
