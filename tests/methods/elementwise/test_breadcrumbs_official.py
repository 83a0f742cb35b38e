"""Breadcrumbs in the authors' form: row by row, and how many of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from cermet import merge_tensors

Merge = Callable[..., Any]

ROW = [10, 1, 9, 2, 8, 3, 7, 4]


def _kept(merge: Merge, **known: Any) -> list[float]:
    found = merge("breadcrumbs_official", [0.0] * 8, [ROW], lambda_=1, **known)
    return sorted(v for v in found if v)


def test_the_band_lies_below_the_outliers(merge: Merge) -> None:
    assert _kept(merge, density=0.5, gamma=0.25) == [3, 4, 7, 8]
    assert _kept(merge, density=0.5, gamma=0.25, remove_first=False) == [7, 8]
    assert _kept(merge, density=1, gamma=0) == sorted(map(float, ROW))
    assert _kept(merge, density=0.5, gamma=0) == [7, 8, 9, 10]
    assert _kept(merge, density=0.25, gamma=0.5, remove_first=False) == []


def test_every_row_is_masked_on_its_own(merge: Merge) -> None:
    rows = [[[100, 200, 300, 400], [1, 2, 3, 4]]]
    known = {"density": 0.25, "gamma": 0.25, "lambda_": 1}
    found = merge("breadcrumbs_official", [[0.0] * 4] * 2, rows, **known)
    assert found == [[0, 0, 300, 0], [0, 0, 3, 0]]


def test_of_equal_values_the_first_count_as_larger(merge: Merge) -> None:
    known = {"density": 0.5, "gamma": 0.25, "lambda_": 1}
    found = merge("breadcrumbs_official", [0.0] * 4, [[2, -2, 2, 2]], **known)
    assert found == [0, -2, 2, 0]


def test_short_rows_lose_everything_and_single_numbers_nothing(merge: Merge) -> None:
    assert merge("breadcrumbs_official", [1.0] * 4, [[3, 4, 5, 6]]) == [1.0] * 4
    assert merge("breadcrumbs_official", 1.0, [6.0]) == 2.0


def test_rows_and_columns_may_change_places() -> None:
    """And in every row as many are kept as were asked for, everything else being zero."""
    own = torch.Generator().manual_seed(0)
    base = {"w": torch.zeros(6, 20)}
    experts = [{"w": torch.randn(6, 20, generator=own)} for _ in range(2)]
    known = {"density": 0.25, "gamma": 0.1, "lambda_": 1}
    found = merge_tensors("breadcrumbs_official", base, experts, **known)["w"]
    rows, columns = torch.randperm(6, generator=own), torch.randperm(20, generator=own)
    moved = [{"w": e["w"][rows][:, columns]} for e in experts]
    again = merge_tensors("breadcrumbs_official", base, moved, **known)["w"]
    assert torch.equal(again, found[rows][:, columns])
    for expert in experts:
        alone = merge_tensors("breadcrumbs_official", base, [expert], **known)["w"]
        assert (alone != 0).sum(dim=1).tolist() == [5] * 6
