"""Statistics, by hand and against the binomial distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from cermet.core.errors import InputError
from cermet.evaluate import bootstrap
from cermet.evaluate.outcomes import Outcomes
from cermet.evaluate.statistics import (
    agreement,
    forgetting,
    interval,
    negative_flips,
    normalised,
)


def _outcomes(right: Sequence[float], answers: Sequence[int] | None = None) -> Outcomes:
    count = len(right)
    return Outcomes(
        "t", "accuracy", np.array(right, np.float32), np.ones(count, np.float32),
        np.array(range(count) if answers is None else answers, np.int64), 1.0,
    )  # fmt: skip


def _bits(scores: Sequence[float], sizes: Sequence[float]) -> Outcomes:
    return Outcomes(
        "t", "bits_per_character", np.array(scores, np.float32), np.array(sizes, np.float32),
        np.full(len(scores), -1, np.int64), 1.0,
    )  # fmt: skip


def _binomial(count: int, share: float, mass: float) -> int:
    """The smallest number of hits up to which the distribution has that mass."""
    total = 0.0
    for hits in range(count + 1):
        total += math.comb(count, hits) * share**hits * (1 - share) ** (count - hits)
        if total >= mass:
            return hits
    return count


@pytest.mark.parametrize(
    ("count", "hits", "level"), [(100, 80, 0.95), (400, 37, 0.9), (50, 25, 0.5)]
)
def test_an_interval_is_that_of_the_binomial_distribution(
    count: int, hits: int, level: float
) -> None:
    """A resample of hits and misses has a binomial number of hits."""
    low, high = interval(_outcomes([1] * hits + [0] * (count - hits)), level)
    wanted = [_binomial(count, hits / count, m) / count for m in ((1 - level) / 2, (1 + level) / 2)]
    assert [low, high] == pytest.approx(wanted, abs=1.5 / count)  # one hit, and the draws
    assert low < hits / count < high


def test_an_interval_is_seeded_and_a_point_where_all_is_alike() -> None:
    mixed = _outcomes([1, 0, 0, 1, 1, 0, 1] * 9)
    assert interval(mixed) == interval(mixed, seed=0) != interval(mixed, seed=1)
    assert interval(_outcomes([1, 1, 1])) == (1.0, 1.0)
    assert interval(_outcomes([0])) == (0.0, 0.0)


def test_draws_that_are_kept_are_those_that_are_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    mixed = _bits([8, 1, 3, 5, 2], [2, 1, 4, 1, 1])
    kept = interval(mixed)
    monkeypatch.setattr(bootstrap, "_KEPT", 0)
    monkeypatch.setattr(bootstrap, "_AT_ONCE", 35)  # seven resamples at a time
    assert interval(mixed) == kept


def test_the_interval_of_a_ratio_weighs_texts_by_their_length() -> None:
    # A resample has k of 2 draws from the long text: 4, (8 + 1) / (2 + 1) = 3, or 1.
    low, high = interval(_bits([8, 1], [2, 1]))
    assert (low, high) == (1.0, 4.0)


def test_many_examples_are_drawn_in_parts_that_fit_in_memory() -> None:
    scores = np.random.default_rng(0).random(30_000) < 0.3
    low, high = interval(_outcomes(scores.astype(float).tolist()))
    half = 1.96 * math.sqrt(0.3 * 0.7 / 30_000)
    assert (low, high) == pytest.approx((scores.mean() - half, scores.mean() + half), abs=half / 8)


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0])
def test_a_level_that_is_no_share(level: float) -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        interval(_outcomes([1, 0]), level)


def test_normalised_is_one_at_the_expert_and_less_below_it() -> None:
    assert normalised(0.45, 0.9, "accuracy") == 0.5
    assert normalised(4.0, 2.0, "bits_per_character") == 0.5
    assert normalised(0.3, 0.3, "exact_match") == 1.0
    with pytest.raises(InputError, match="a share of 0"):
        normalised(0.3, 0.0, "exact_match")


def test_flips_agreement_and_forgetting_by_hand() -> None:
    before = _outcomes([1, 1, 1, 0, 0], [0, 1, 2, 3, 4])
    after = _outcomes([1, 0, 0, 1, 0], [0, 9, 9, 5, 4])
    assert negative_flips(before, after) == pytest.approx(2 / 5)
    assert negative_flips(after, before) == pytest.approx(1 / 5)
    assert agreement(before, after) == pytest.approx(2 / 5)
    assert forgetting([before], [after]) == pytest.approx(2 / 3)
    # Over two tasks: (2 + 1) of (3 + 1) that the base could do.
    assert forgetting([before, _outcomes([1, 0])], [after, _outcomes([0, 0])]) == 0.75
    assert forgetting([_outcomes([0, 0])], [_outcomes([1, 0])]) == 0.0


def test_a_text_is_neither_right_nor_wrong() -> None:
    before, after = _bits([10, 10, 10, 10], [5] * 4), _bits([9, 10.005, 10.02, 30], [5] * 4)
    assert negative_flips(before, after) is None
    assert agreement(before, after) is None
    assert forgetting([before], [after]) is None
    # Beside tasks of another metric, likelihoods do not count.
    right, wrong = _outcomes([1, 1, 0]), _outcomes([0, 1, 0])
    assert forgetting([before, right], [after, wrong]) == 0.5


def test_what_cannot_be_compared() -> None:
    with pytest.raises(InputError, match="5 examples of 't' and of 1"):
        negative_flips(_outcomes([1] * 5), _outcomes([1]))
    with pytest.raises(InputError, match="cannot be compared"):
        agreement(_outcomes([1]), _bits([1], [1]))
    with pytest.raises(InputError, match="cannot be compared"):
        forgetting([_bits([1], [1])], [_bits([1, 2], [1, 1])])
    with pytest.raises(InputError, match="1 tasks of the base stand beside 0"):
        forgetting([_outcomes([1])], [])
