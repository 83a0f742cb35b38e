"""DELLA in the authors' form: every kept entry is divided by its own probability."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from cermet import MethodError, merge_tensors

Merge = Callable[..., Any]


def test_each_entry_is_divided_by_its_own_probability(merge: Merge) -> None:
    """Probabilities 0.25, 0.5, 0.75 by rank; equal magnitudes rank in order."""
    noise = [[0.0, 0.0, 0.0]]
    known = {"weight": 1, "density": 0.5, "epsilon": 0.25, "noise": noise}
    assert merge("della_official", [0.0] * 3, [[3, 1, 2]], **known) == [4.0, 4.0, 4.0]
    assert merge("della_official", [0.0] * 3, [[3, 3, 3]], **known) == [12.0, 6.0, 4.0]


def test_without_a_window_it_is_dare_with_election(merge: Merge) -> None:
    noise = [[0.4, 0.6, 0.1], [0.3, 0.2, 0.8]]
    known = {"density": 0.5, "noise": noise}
    experts = [[2, 4, 6], [-1, 3, 5]]
    found = merge("della_official", [0.0] * 3, experts, weight=1, epsilon=0, **known)
    assert found == [4.0, 6.0, 12.0]


def test_ranks_over_the_whole_tensor(merge: Merge) -> None:
    """By rows both rows rank alike; over the tensor the second row's entries come last."""
    known = {"weight": 1, "density": 0.5, "epsilon": 0.3}
    noise = [[[0.35, 0.35], [0.35, 0.35]]]
    base, experts = [[0.0, 0.0]] * 2, [[[1, 2], [3, 4]]]
    rows = merge("della_official", base, experts, noise=noise, **known)
    whole = merge("della_official", base, experts, noise=noise, by_tensor=True, **known)
    assert [[v != 0 for v in row] for row in rows] == [[False, True], [False, True]]
    assert [[v != 0 for v in row] for row in whole] == [[False, True], [True, True]]


def test_the_expected_delta_is_the_delta() -> None:
    base, expert = {"x": torch.zeros(1, 32)}, {"x": torch.arange(1.0, 33.0)[None]}
    runs = [
        merge_tensors("della_official", base, [expert], weight=1, density=0.5, epsilon=0.2, seed=s)
        for s in range(400)
    ]
    mean = torch.stack([r["x"] for r in runs]).mean(dim=0)
    assert ((mean - expert["x"]) / expert["x"]).abs().max() < 5 * (0.7 / 0.3 / 400) ** 0.5


def test_a_window_outside_of_0_to_1_is_refused(merge: Merge) -> None:
    with pytest.raises(MethodError, match="epsilon"):
        merge("della_official", [0.0], [[1.0]], weight=1, density=0.9, epsilon=0.2)


def test_a_row_of_one_entry_has_the_density(merge: Merge) -> None:
    """Not 0/0: the first is kept and doubled, the second dropped."""
    known = {"weight": 1, "density": 0.5, "epsilon": 0.25, "noise": [[[0.49], [0.51]]]}
    assert merge("della_official", [[0.0], [0.0]], [[[3.0], [5.0]]], **known) == [[6.0], [0.0]]


def test_the_mean_probability_of_a_row_is_the_density() -> None:
    """Read off where each entry of an ascending row starts to be kept."""
    base, expert = {"x": torch.zeros(9)}, {"x": torch.arange(1.0, 10.0)}
    known = {"weight": 1, "density": 0.6, "epsilon": 0.3}
    steps = 200
    kept = torch.zeros(9)
    for i in range(steps):
        noise = {"x": torch.full((1, 9), (i + 0.5) / steps)}
        kept += merge_tensors("della_official", base, [expert], noise=noise, **known)["x"] != 0
    assert float(kept.mean()) / steps == pytest.approx(0.6, abs=0.005)
    assert bool((kept.diff() > 0).all())
