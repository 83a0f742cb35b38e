"""Passthrough: a copy, or a scaled one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from cermet import MethodError, merge_tensors

Merge = Callable[..., Any]


def test_worked_by_hand(merge: Merge) -> None:
    assert merge("passthrough", None, [[1.0, -2.0]], scale=2.0) == [2.0, -4.0]
    assert merge("passthrough", None, [[1.0, -2.0]]) == [1.0, -2.0]


def test_scale_0_silences(merge: Merge) -> None:
    assert merge("passthrough", None, [[1.0, -2.0]], scale=0) == [0.0, 0.0]


def test_every_bit_pattern_of_bfloat16_that_is_finite_is_kept() -> None:
    """Subnormal numbers and negative zero too."""
    every = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16)
    finite = every.view(torch.bfloat16).isfinite()
    value = every[finite].view(torch.bfloat16)
    found = merge_tensors("passthrough", None, [{"x": value}])["x"]
    assert torch.equal(found.view(torch.int16), value.view(torch.int16))


def test_it_takes_one_model(merge: Merge) -> None:
    with pytest.raises(MethodError, match="2 experts"):
        merge("passthrough", None, [[1.0], [2.0]])
    with pytest.raises(MethodError, match="no base"):
        merge("passthrough", [1.0], [[2.0]])
