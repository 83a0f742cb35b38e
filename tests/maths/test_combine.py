"""Sums over models and the agreement of their signs, against plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cermet.maths.combine import (
    agreeing_mean,
    at_least,
    changed,
    changed_mean,
    consensus,
    elected_sign,
    mean_coefficients,
    scaled_,
    weighted_sum,
)

_COLUMN = st.lists(st.sampled_from([-2.0, -1.0, 0.0, 0.5, 3.0]), min_size=1, max_size=5)
_WEIGHT = st.sampled_from([-1.0, 0.25, 1.0, 2.0])


def _column(numbers: list[float]) -> torch.Tensor:
    return torch.tensor(numbers)[:, None]


def _consensus(deltas: list[float], weights: list[float], normalize: bool) -> float:
    """The sum, or mean, of the weighted deltas that have the sign of their total."""
    parts = [w * d for w, d in zip(weights, deltas, strict=True)]
    sign = 1.0 if sum(parts) >= 0 else -1.0
    agree = [i for i, p in enumerate(parts) if p * sign > 0]
    total = sum(parts[i] for i in agree)
    divisor = sum(weights[i] for i in agree)
    return total / divisor if normalize and divisor != 0 else total


@given(_COLUMN, st.data(), st.booleans())
def test_consensus_by_its_definition(
    deltas: list[float], data: st.DataObject, normalize: bool
) -> None:
    weights = [data.draw(_WEIGHT) for _ in deltas]
    found = consensus(_column(deltas), weights, weights, normalize=normalize)
    assert found.item() == pytest.approx(_consensus(deltas, weights, normalize), rel=1e-6)


@given(_COLUMN, st.data())
def test_weighted_sum(values: list[float], data: st.DataObject) -> None:
    weights = [data.draw(_WEIGHT) for _ in values]
    expected = sum(w * v for w, v in zip(weights, values, strict=True))
    blocks = _column(values)
    assert weighted_sum(blocks, weights).item() == pytest.approx(expected, rel=1e-6)
    assert torch.equal(blocks, _column(values))  # and the models are left alone


def test_sums_run_in_the_order_of_the_models() -> None:
    """1e8 + 1 - 1e8 is 0 in float32, and 1 in another order."""
    assert weighted_sum(_column([1e8, 1.0, -1e8]), [1, 1, 1]).item() == 0.0
    assert weighted_sum(_column([1e8, -1e8, 1.0]), [1, 1, 1]).item() == 1.0


def test_mean_coefficients_divide_by_the_shares_unless_they_cancel() -> None:
    assert mean_coefficients([2, 4], [1, 2], normalize=True) == pytest.approx((2 / 3, 4 / 3))
    assert mean_coefficients([2, 4], [1, 2], normalize=False, scale=0.5) == (1, 2)
    assert mean_coefficients([2, 4], [1, -1], normalize=True) == (2, 4)


def test_signs_and_thresholds() -> None:
    values = torch.tensor([-1.0, -0.0, 0.0, 2.0])
    assert elected_sign(values).tolist() == [-1, 1, 1, 1]
    assert at_least(values, 0.0).tolist() == [0, 1, 1, 1]
    assert at_least(torch.tensor([math.nan]), 0.0).tolist() == [0]


def test_scaled_in_place() -> None:
    blocks = torch.ones(2, 3, 4)
    found = scaled_(blocks, (2.0, -1.0))
    assert found is blocks
    assert found[0].unique().item() == 2
    assert found[1].unique().item() == -1


def test_where_nothing_agrees_nothing_is_left() -> None:
    sign = torch.tensor([1.0])
    assert agreeing_mean(_column([-1.0, 0.0]), [1, 1], sign, normalize=True).item() == 0.0


def test_shares_that_cancel_are_not_divided_by() -> None:
    sign = torch.tensor([1.0])
    assert agreeing_mean(_column([2.0, 3.0]), [1, -1], sign, normalize=True).item() == 5.0


def test_changed_is_strict() -> None:
    deltas = torch.tensor([[0.5, -0.5, 0.75, -0.75, 0.0]])
    assert changed(deltas, 0.5).tolist() == [[0, 0, 1, 1, 0]]
    assert deltas[0, 0] == 0.5


@given(_COLUMN)
def test_changed_mean(deltas: list[float]) -> None:
    """Over those that changed the element by more than 0.75; a lone one is boosted."""
    moved = [d for d in deltas if abs(d) > 0.75]
    expected = sum(moved) / max(1, len(moved))
    assert changed_mean(_column(deltas), 0.75, None).item() == pytest.approx(expected)
    boosts = [2.0 + i for i in range(len(deltas))]
    if len(moved) == 1:
        expected *= boosts[[abs(d) > 0.75 for d in deltas].index(True)]
    assert changed_mean(_column(deltas), 0.75, boosts).item() == pytest.approx(expected)
