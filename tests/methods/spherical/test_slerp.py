"""SLERP: against a reference in double precision, written down coordinate by coordinate."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from cermet import MethodError, merge_tensors

Merge = Callable[..., Any]
SHARES = (-0.2, 0.0, 0.3, 0.5, 1.0, 1.2)
PAIRS = {
    "in general": ([1.0, 2.0, -3.0, 0.5], [2.0, -1.0, -1.0, 4.0]),
    "orthogonal": ([1.0, 0.0], [0.0, 2.0]),
    "of very different length": ([1e-3, 2e-3], [300.0, -100.0]),
    "parallel": ([1.0, 2.0], [2.0, 4.0]),
    "nearly parallel": ([1.0, 0.0], [1.0, 0.02]),
    "just not parallel": ([1.0, 0.0], [1.0, 0.04]),
    "antiparallel": ([1.0, 2.0], [-1.0, -2.0]),
    "nearly antiparallel": ([1.0, 0.0], [-1.0, 0.04]),
    "one zero": ([0.0, 0.0], [1.0, 2.0]),
    "both zero": ([0.0, 0.0], [0.0, 0.0]),
    "one below the floor": ([1e-9, 0.0], [1.0, 2.0]),
}


def _reference(t: float, a: list[float], b: list[float]) -> list[float]:
    """As mergekit does it: a vector shorter than 1e-8 is not normalised."""

    def unit(v: list[float]) -> list[float]:
        norm = math.sqrt(sum(x * x for x in v))
        return [x / norm for x in v] if norm > 1e-8 else v

    cosine = sum(x * y for x, y in zip(unit(a), unit(b), strict=True))
    if abs(cosine) > 0.9995:
        return [(1 - t) * x + t * y for x, y in zip(a, b, strict=True)]
    angle = math.acos(cosine)
    near, far = math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)
    return [near * x + far * y for x, y in zip(a, b, strict=True)]


@pytest.mark.parametrize("t", SHARES)
@pytest.mark.parametrize("pair", PAIRS)
def test_it_equals_the_reference(pair: str, t: float) -> None:
    a, b = PAIRS[pair]
    base, other = {"x": torch.tensor(a)}, {"x": torch.tensor(b)}
    found = merge_tensors("slerp", base, [other], t=t)["x"].tolist()
    # Sums of float32 products: where the models nearly oppose each other, the angle feels it.
    assert found == pytest.approx(_reference(t, a, b), rel=1e-5, abs=1e-6)


def test_worked_by_hand(merge: Merge) -> None:
    """Half way between two axes, and a third of the way."""
    assert merge("slerp", [1.0, 0.0], [[0.0, 1.0]], t=0.5) == [0.7071, 0.7071]
    assert merge("slerp", [1.0, 0.0], [[0.0, 1.0]], t=1 / 3) == [0.866, 0.5]


def test_equal_norms_are_kept() -> None:
    own = torch.Generator().manual_seed(0)
    a, b = (torch.randn(20, 30, generator=own) for _ in range(2))
    a, b = a / a.norm() * 7, b / b.norm() * 7
    for t in (0.1, 0.5, 0.8):
        found = merge_tensors("slerp", {"x": a}, [{"x": b}], t=t)["x"]
        assert float(found.norm()) == pytest.approx(7, rel=1e-5)


def test_the_angle_is_that_of_the_whole_tensor(merge: Merge) -> None:
    """Orthogonal as a whole, though the rows are parallel or opposed."""
    assert merge("slerp", [[1.0, 0.0], [0.0, 1.0]], [[[1.0, 0.0], [0.0, -1.0]]], t=0.5) == [
        [1.4142, 0.0],
        [0.0, 0.0],
    ]


def test_t_is_required_and_the_base_too(merge: Merge) -> None:
    with pytest.raises(MethodError, match="'t'"):
        merge("slerp", [1.0], [[2.0]])
    with pytest.raises(MethodError, match="base"):
        merge("slerp", None, [[2.0]], t=0.5)
