"""DARE as published: survivors are divided by the share that is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from cermet import merge_tensors

Merge = Callable[..., Any]


def test_survivors_are_divided_by_the_density(merge: Merge) -> None:
    """Of four ones, one is kept: 1 / 0.5 is 2, where the L1 norm would ask for 4."""
    noise = [[0.4, 0.5, 0.9, 0.7]]
    assert merge("dare_official", [0.0] * 4, [[1] * 4], density=0.5, noise=noise) == [2, 0, 0, 0]
    known = {"density": 0.5, "noise": noise, "rescale": False}
    assert merge("dare_official", [0.0] * 4, [[1] * 4], **known) == [1, 0, 0, 0]


def test_nothing_dropped_is_task_arithmetic(merge: Merge) -> None:
    experts = [[1, 2], [3, -4]]
    found = merge("dare_official", [1.0, 1.0], experts, density=1, weight=[0.5, 2])
    assert found == merge("task_arithmetic", [1.0, 1.0], experts, weight=[0.5, 2])


def test_density_0_leaves_the_base(merge: Merge) -> None:
    assert merge("dare_official", [1.0, 2.0], [[5, 6]], density=0) == [1.0, 2.0]


def test_the_expected_delta_is_the_delta() -> None:
    """The mean over 200 seeds is within five standard deviations, sqrt(p / (1 - p) / 200)."""
    base, expert = {"x": torch.zeros(64)}, {"x": torch.full((64,), 3.0)}
    runs = [
        merge_tensors("dare_official", base, [expert], density=0.5, seed=s)["x"] for s in range(200)
    ]
    assert (torch.stack(runs).mean(dim=0) - 3.0).abs().max() < 5 * 3.0 / 200**0.5
    spread = float(torch.stack(runs).var())  # δ²p/(1 − p) is 9
    assert abs(spread - 9.0) < 0.2
