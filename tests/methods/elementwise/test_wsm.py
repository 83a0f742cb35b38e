"""WSM: coefficients of each schedule, and the identity that they are made by."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

from cermet import MethodError, merge_tensors

Merge = Callable[..., Any]

CURVES: Mapping[str, Callable[[float], float]] = {
    "linear": lambda t: 1 - t,
    "cosine": lambda t: (1 + math.cos(math.pi * t)) / 2,
    "minus_sqrt": lambda t: 1 - t**0.5,
    "inverse_sqrt": lambda t: ((1 + t) ** -0.5 - 2**-0.5) / (1 - 2**-0.5),
}
SCHEDULES = tuple(CURVES)


def _coefficients(schedule: str, count: int) -> torch.Tensor:
    """Read off by merging unit vectors."""
    models = [{"x": row} for row in torch.eye(count)]
    return merge_tensors("wsm", None, models, schedule=schedule)["x"]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("count", [1, 2, 5, 9])
def test_coefficients_are_shares(schedule: str, count: int) -> None:
    found = _coefficients(schedule, count)
    assert float(found.sum()) == pytest.approx(1.0, abs=1e-6)
    assert bool((found >= 0).all())


def test_linear_is_the_mean_and_cosine_a_bell() -> None:
    assert _coefficients("linear", 5).tolist() == pytest.approx([0.2] * 5)
    bell = [0.0955, 0.25, 0.309, 0.25, 0.0955]
    assert _coefficients("cosine", 5).tolist() == pytest.approx(bell, abs=1e-4)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_merge_is_the_first_checkpoint_minus_decayed_updates(schedule: str) -> None:
    """θ₀ − Σ wᵢgᵢ with wᵢ = f(i/n), the updates gᵢ between checkpoints."""
    own = torch.Generator().manual_seed(0)
    steps = torch.randn(6, 10, generator=own).cumsum(dim=0)
    found = merge_tensors("wsm", None, [{"x": s} for s in steps], schedule=schedule)["x"]
    expected = steps[0].clone()
    for i in range(1, 6):
        expected -= CURVES[schedule](i / 6) * (steps[i - 1] - steps[i])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_coefficients_and_curve_are_each_others(schedule: str) -> None:
    """wᵢ is the sum of the coefficients from i on, which falls from 1."""
    tail = _coefficients(schedule, 7).flip(0).cumsum(0).flip(0)
    curve = [CURVES[schedule](i / 7) for i in range(7)]
    assert tail.tolist() == pytest.approx(curve, abs=1e-6)
    assert curve == sorted(curve, reverse=True)


def test_an_unknown_schedule_is_refused(merge: Merge) -> None:
    with pytest.raises(MethodError, match="linear or cosine or minus_sqrt or inverse_sqrt"):
        merge("wsm", None, [[1.0]], schedule="step")
