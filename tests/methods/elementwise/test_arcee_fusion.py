"""Arcee fusion: which changes are important, against NumPy in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from cermet import MethodError, merge_tensors

Merge = Callable[..., Any]
Floats = npt.NDArray[np.float64]


def _reference(base: Floats, other: Floats) -> npt.NDArray[np.bool_]:
    """Where the other model's value is taken."""

    def softmax(x: Floats) -> Floats:
        lifted = np.exp(x - x.max(axis=-1, keepdims=True))
        return np.asarray(lifted / lifted.sum(axis=-1, keepdims=True)) + 1e-8

    one, two = softmax(other), softmax(base)
    divergence = (one * np.log(one / two)).sum(axis=-1, keepdims=True)
    importance = np.abs(other - base) * divergence
    ordered = np.sort(importance, axis=None)
    low, middle, high = (ordered[int(q * (ordered.size - 1))] for q in (0.25, 0.5, 0.75))
    return np.asarray(importance >= middle + 1.5 * (high - low))


def test_worked_by_hand(merge: Merge) -> None:
    """In one row importance goes with the size of the change: 5 is far above the rest."""
    found = merge("arcee_fusion", [0.0] * 4, [[0.0, 0.1, 0.0, 5.0]])
    assert found == [0.0, 0.0, 0.0, 5.0]


@pytest.mark.parametrize("shape", [(2,), (3,), (5,), (40,), (7, 9), (2, 3, 8), (30, 5)])
def test_it_takes_what_the_reference_takes(shape: tuple[int, ...]) -> None:
    """Tensors of a few elements too, whose lowest quartile is the smallest value."""
    own = torch.Generator().manual_seed(len(shape))
    base = torch.randn(shape, generator=own)
    other = base + torch.randn(shape, generator=own) ** 3 * 0.3
    found = merge_tensors("arcee_fusion", {"x": base}, [{"x": other}])["x"]
    expected = _reference(base.double().numpy(), other.double().numpy())
    assert torch.equal(found, torch.where(torch.from_numpy(expected), other, base))


def test_every_element_is_one_or_the_other_bit_for_bit() -> None:
    own = torch.Generator().manual_seed(0)
    base = torch.randn(50, 30, generator=own).bfloat16()
    other = (base + torch.randn(50, 30, generator=own) * 0.1).bfloat16()
    found = merge_tensors("arcee_fusion", {"x": base}, [{"x": other}])["x"]
    assert found.dtype == torch.bfloat16  # mergekit writes float32
    assert bool(((found == base) | (found == other)).all())
    assert 0 < int((found != base).sum()) < int((other != base).sum())


def test_one_element_has_no_distribution(merge: Merge) -> None:
    """Its importance is 0, and so is the threshold: the change is taken."""
    assert merge("arcee_fusion", [1.0], [[3.0]]) == [3.0]


def test_equal_models_stay_as_they_are(merge: Merge) -> None:
    assert merge("arcee_fusion", [1.0, 2.0], [[1.0, 2.0]]) == [1.0, 2.0]


def test_it_takes_one_other_model(merge: Merge) -> None:
    with pytest.raises(MethodError, match="2 experts"):
        merge("arcee_fusion", [0.0], [[1.0], [2.0]])
