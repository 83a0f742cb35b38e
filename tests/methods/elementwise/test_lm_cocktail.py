"""LM-Cocktail: weights from losses."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from cermet import MethodError

Merge = Callable[..., Any]


def test_weights_by_the_formula(merge: Merge) -> None:
    shares = [math.exp(-loss / 5.0) for loss in (1.0, 2.0)]
    expected = round(shares[0] / sum(shares), 4)
    assert merge("lm_cocktail", None, [[1.0], [0.0]], loss=[1.0, 2.0]) == [expected]


def test_a_constant_changes_nothing(merge: Merge) -> None:
    one = merge("lm_cocktail", None, [[1.0], [2.0]], loss=[1.0, 2.0])
    assert merge("lm_cocktail", None, [[1.0], [2.0]], loss=[901.0, 902.0]) == one


def test_ends_of_the_temperature(merge: Merge) -> None:
    known: dict[str, Any] = {"loss": [1.0, 2.0]}
    assert merge("lm_cocktail", None, [[1.0], [3.0]], temperature=1e-4, **known) == [1.0]
    assert merge("lm_cocktail", None, [[1.0], [3.0]], temperature=1e9, **known) == [2.0]
    with pytest.raises(MethodError, match="temperature"):
        merge("lm_cocktail", None, [[1.0], [3.0]], temperature=0, **known)
