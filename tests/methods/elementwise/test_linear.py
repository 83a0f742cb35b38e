"""Linear: worked by hand, and against float64 for every dtype."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from cermet import MethodError, merge_tensors

Merge = Callable[..., Any]


def test_worked_by_hand(merge: Merge) -> None:
    assert merge("linear", None, [[2.0, 4.0], [4.0, 0.0]], weight=[1, 3]) == [3.5, 1.0]


def test_without_normalize_it_is_the_sum(merge: Merge) -> None:
    found = merge("linear", None, [[2.0, 4.0], [4.0, 0.0]], weight=[1, 3], normalize=False)
    assert found == [14.0, 4.0]


def test_negative_weights_count_in_the_divisor(merge: Merge) -> None:
    assert merge("linear", None, [[2.0], [6.0]], weight=[1.5, -0.5]) == [0.0]


def test_the_scale_of_the_weights_does_not_matter(merge: Merge) -> None:
    models = [[1.0, 2.0], [3.0, 7.0]]
    assert merge("linear", None, models, weight=2) == merge("linear", None, models, weight=0.25)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_it_equals_a_float64_reference(dtype: torch.dtype) -> None:
    own = torch.Generator().manual_seed(0)
    models = [torch.randn(257, generator=own).to(dtype) for _ in range(5)]
    weights = (0.9, 0.1, 0.35, -0.2, 0.6)
    total = sum(w * m.double() for w, m in zip(weights, models, strict=True)) / sum(weights)
    found = merge_tensors("linear", None, [{"x": m} for m in models], weight=weights)["x"]
    unit = max(torch.finfo(dtype).eps, 2e-7)
    torch.testing.assert_close(found.double(), total, rtol=unit, atol=unit)


def test_bfloat16_models_are_summed_in_float32() -> None:
    """256 + 1 is 256 in bfloat16, so a running sum there would never leave 256."""
    models = [{"x": torch.tensor([v], dtype=torch.bfloat16)} for v in (256, 1, 1, 1, 1)]
    found = merge_tensors("linear", None, models, weight=1, normalize=False)["x"]
    assert found.item() == 260


def test_weights_that_cancel_are_refused(merge: Merge) -> None:
    with pytest.raises(MethodError, match="sum to zero"):
        merge("linear", None, [[1.0], [2.0]], weight=[1, -1])
    assert merge("linear", None, [[1.0], [2.0]], weight=[1, -1], normalize=False) == [-1.0]
