"""NuSLERP: shares by weight, angles by tensor, row or column, deltas with a base."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from cermet import MethodError, merge_tensors

Merge = Callable[..., Any]


def test_worked_by_hand(merge: Merge) -> None:
    assert merge("nuslerp", None, [[1.0, 0.0], [0.0, 1.0]], weight=1) == [0.7071, 0.7071]
    assert merge("nuslerp", None, [[1.0, 0.0], [0.0, 1.0]], weight=[2, 1]) == [0.866, 0.5]


def test_with_a_base_deltas_are_turned(merge: Merge) -> None:
    """The deltas are the axes again."""
    found = merge("nuslerp", [5.0, 5.0], [[6.0, 5.0], [5.0, 6.0]], weight=1)
    assert found == [5.7071, 5.7071]


@pytest.mark.parametrize("flatten", [True, False])
@pytest.mark.parametrize("weight", [[1, -1], [0, 0]])
def test_weights_that_sum_to_0_are_halves(merge: Merge, weight: list[float], flatten: bool) -> None:
    """No NaN."""
    found = merge("nuslerp", None, [[1.0, 0.0], [0.0, 1.0]], weight=weight, nuslerp_flatten=flatten)
    assert found == [0.7071, 0.7071]


def test_there_is_no_shortcut_for_near_directions() -> None:
    """At a cosine of 0.9998 slerp takes the chord; this stays on the arc."""
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([math.cos(0.02), math.sin(0.02)])
    found = merge_tensors("nuslerp", None, [{"x": a}, {"x": b}], weight=1)["x"].double()
    chord = merge_tensors("slerp", {"x": a}, [{"x": b}], t=0.5)["x"].double()
    assert float(found.norm()) == pytest.approx(1, abs=1e-7)
    assert float(chord.norm()) == pytest.approx(math.cos(0.01), abs=1e-7)


def test_rows_or_columns(merge: Merge) -> None:
    """nuslerp_row_wise turns the columns: the name reads inverted."""
    one, other = [[1.0, 0.0], [3.0, 0.0]], [[0.0, 1.0], [3.0, 0.0]]
    rows = merge("nuslerp", None, [one, other], weight=1, nuslerp_flatten=False)
    assert rows == [[0.7071, 0.7071], [3.0, 0.0]]
    columns = merge(
        "nuslerp", None, [one, other], weight=1, nuslerp_flatten=False, nuslerp_row_wise=True
    )
    angle = math.acos(9 / math.sqrt(10) / 3)
    share = math.sin(angle / 2) / math.sin(angle)
    assert columns[0][0] == pytest.approx(share, abs=1e-4)
    assert columns[1][0] == pytest.approx(share * 6, abs=1e-4)
    assert [columns[0][1], columns[1][1]] == [pytest.approx(0.7071, abs=1e-4), 0.0]


@pytest.mark.parametrize("flatten", [True, False])
def test_opposed_vectors_and_zeros(merge: Merge, flatten: bool) -> None:
    """The chord where the arc has no direction; the middle of nothing is nothing."""
    given = {"weight": [1, 3], "nuslerp_flatten": flatten}
    assert merge("nuslerp", None, [[2.0, 0.0], [-2.0, 0.0]], **given) == [-1.0, 0.0]
    assert merge("nuslerp", None, [[0.0, 0.0], [0.0, 0.0]], **given) == [0.0, 0.0]
    assert merge("nuslerp", None, [[0.0, 0.0], [1.0, 1.0]], **given) == [0.9239, 0.9239]


def test_it_takes_two_experts(merge: Merge) -> None:
    with pytest.raises(MethodError, match="3 experts"):
        merge("nuslerp", None, [[1.0], [2.0], [3.0]], weight=1)
