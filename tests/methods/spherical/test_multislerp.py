"""Multi-SLERP: mergekit's steps through the tangent space, and the closed form that they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from cermet import DataError, MethodError, merge_tensors

Merge = Callable[..., Any]
WEIGHTS = (0.5, 0.3, 0.4)


def _steps(models: list[Tensor], weights: list[float], eps: float = 1e-8) -> Tensor:
    """The steps as published, in double precision."""
    units = [x.double() / (x.double().norm() + eps) for x in models]
    mean = sum(w * u for w, u in zip(weights, units, strict=True))
    assert isinstance(mean, Tensor)
    mean = mean / mean.norm()
    tangent = sum(w * (u - (u * mean).sum() * mean) for w, u in zip(weights, units, strict=True))
    assert isinstance(tangent, Tensor)
    size = tangent.norm() + eps
    point = mean * size.cos() + tangent * (size.sin() / size)
    return point * sum(w * float(x.double().norm()) for w, x in zip(weights, models, strict=True))


@pytest.mark.parametrize("normalize", [True, False])
def test_it_equals_the_steps_through_the_tangent_space(normalize: bool) -> None:
    own = torch.Generator().manual_seed(0)
    models = [torch.randn(60, generator=own) * (i + 1) for i in range(3)]
    total = sum(WEIGHTS) if normalize else 1.0
    expected = _steps(models, [w / total for w in WEIGHTS])
    found = merge_tensors(
        "multislerp", None, [{"x": m} for m in models], weight=WEIGHTS, normalize_weights=normalize
    )["x"]
    torch.testing.assert_close(found.double(), expected, rtol=2e-6, atol=2e-6)


def test_worked_by_hand(merge: Merge) -> None:
    assert merge("multislerp", None, [[2.0, 0.0], [0.0, 2.0]], weight=1) == [1.4142, 1.4142]


def test_the_norm_is_the_weighted_mean_of_the_norms(merge: Merge) -> None:
    """(1 x 3 + 3 x 5) / 4, towards (0.25 x (1, 0) + 0.75 x (0, 1))."""
    x, y = merge("multislerp", None, [[3.0, 0.0], [0.0, 5.0]], weight=[1, 3])
    assert (x * x + y * y) ** 0.5 == pytest.approx(4.5, abs=2e-4)
    assert y / x == pytest.approx(3, abs=1e-3)


def test_with_a_base_deltas_are_averaged(merge: Merge) -> None:
    found = merge("multislerp", [1.0, 1.0], [[3.0, 1.0], [1.0, 3.0]], weight=1)
    assert found == [2.4142, 2.4142]


def test_two_opposed_models_meet_on_the_chord(merge: Merge) -> None:
    assert merge("multislerp", None, [[1.0, 2.0], [-3.0, -6.0]], weight=1) == [-1.0, -2.0]


def test_more_that_cancel_have_no_mean_direction(merge: Merge) -> None:
    with pytest.raises(DataError, match=r"'x'.*cancel"):
        merge("multislerp", None, [[1.0], [-1.0], [0.0]], weight=1)


def test_deltas_of_zero_give_the_base(merge: Merge) -> None:
    assert merge("multislerp", [1.0, 2.0], [[1.0, 2.0]] * 3, weight=1) == [1.0, 2.0]


@pytest.mark.parametrize("eps", [0, 1e-8])
def test_a_model_of_zeros_has_no_direction(merge: Merge, eps: float) -> None:
    """With eps 0 too, where its norm cannot be divided by."""
    found = merge("multislerp", None, [[0.0, 0.0], [0.0, 4.0]], weight=1, eps=eps)
    assert found == [0.0, 2.0]
    assert merge("multislerp", None, [[0.0], [0.0]], weight=1, eps=eps) == [0.0]


def test_weights_that_cancel_are_refused(merge: Merge) -> None:
    with pytest.raises(MethodError, match="sum to zero"):
        merge("multislerp", None, [[1.0], [2.0]], weight=[1, -1])
