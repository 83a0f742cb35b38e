"""The Karcher mean: where the tangents to all models cancel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from cermet import MethodError, merge_tensors

Merge = Callable[..., Any]


def _pull(point: Tensor, models: list[Tensor]) -> float:
    """The length of the mean tangent at a point of the unit sphere."""
    total = torch.zeros_like(point)
    for model in models:
        unit = model.double() / model.double().norm()
        angle = (unit @ point).clamp(-1, 1).acos()
        total += angle / angle.sin() * (unit - angle.cos() * point) / len(models)
    return float(total.norm())


def _spread() -> list[Tensor]:
    own = torch.Generator().manual_seed(0)
    middle = torch.randn(50, generator=own)
    return [(middle + 1.2 * torch.randn(50, generator=own)) * (i + 1) for i in range(4)]


def _mean(models: list[Tensor], **parameters: Any) -> Tensor:
    found = merge_tensors("karcher", None, [{"x": m} for m in models], **parameters)["x"]
    return found.double()


def test_worked_by_hand(merge: Merge) -> None:
    assert merge("karcher", None, [[1.0, 0.0], [0.0, 1.0]]) == [0.7071, 0.7071]
    third = 3 / 3**0.5 / 3
    axes = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    assert merge("karcher", None, axes) == [round(third, 4)] * 3


def test_the_tangents_cancel_at_the_mean() -> None:
    models = _spread()
    found = _mean(models, max_iter=50, tol=1e-12)
    assert _pull(found / found.norm(), models) < 1e-6
    chord = sum(m.double() / m.double().norm() for m in models)
    assert isinstance(chord, Tensor)
    assert _pull(chord / chord.norm(), models) > 1e-3  # it is not the normalised mean


def test_the_norm_is_the_mean_norm() -> None:
    models = _spread()
    expected = sum(float(m.double().norm()) for m in models) / len(models)
    assert float(_mean(models).norm()) == pytest.approx(expected, rel=1e-6)


def test_steps_stop_at_max_iter() -> None:
    """No step at all is the normalised mean of the directions."""
    models = _spread()
    start = sum(m.double() / m.double().norm() for m in models)
    assert isinstance(start, Tensor)
    found = _mean(models, max_iter=0)
    torch.testing.assert_close(found / found.norm(), start / start.norm(), rtol=0, atol=1e-6)
    assert not torch.allclose(found, _mean(models, max_iter=20), atol=1e-4)


def test_a_model_of_zeros_counts_in_the_norm_alone(merge: Merge) -> None:
    assert merge("karcher", None, [[0.0, 0.0], [0.0, 4.0]]) == [0.0, 2.0]
    assert merge("karcher", None, [[0.0], [0.0]]) == [0.0]


@pytest.mark.parametrize("tol", [0, 1e-5])
def test_equal_and_opposed_models(merge: Merge, tol: float) -> None:
    """With a tolerance of 0 too, where an angle of 0 cannot be divided by."""
    assert merge("karcher", None, [[3.0, 4.0]] * 3, tol=tol) == [3.0, 4.0]
    assert merge("karcher", None, [[3.0, 4.0], [-3.0, -4.0]], tol=tol) == [3.0, 4.0]


@pytest.mark.parametrize("wrong", [{"max_iter": -1}, {"tol": -1e-5}, {"max_iter": 1.5}])
def test_parameters_that_make_no_sense_are_refused(merge: Merge, wrong: dict[str, float]) -> None:
    with pytest.raises(MethodError, match=next(iter(wrong))):
        merge("karcher", None, [[1.0], [2.0]], **wrong)
