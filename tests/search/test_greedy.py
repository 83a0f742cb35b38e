"""Greedy soups: the order, the strict comparison, and what is averaged."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import cermet
from cermet import InputError, MismatchError, OutputError
from cermet.search.greedy import greedy_soup
from tests.reliability.runs import weights, write_model

NORM = "model.layers.0.input_layernorm.weight"


def _by_table(table: Mapping[tuple[int, ...], float], count: int) -> tuple[int, ...]:
    return greedy_soup(count, lambda members: table[members]).members


def test_best_first_and_each_is_tried_once() -> None:
    tried: list[tuple[int, ...]] = []
    table = {(0,): 0.5, (1,): 0.9, (2,): 0.7, (1, 2): 0.8, (1, 0): 0.95}

    def score(members: tuple[int, ...]) -> float:
        tried.append(members)
        return table[members]

    found = greedy_soup(3, score)
    assert found.members == (1, 0)
    assert found.score == 0.95
    assert tried == [(0,), (1,), (2,), (1, 2), (1, 0)]
    assert [(s.model, s.together, s.taken) for s in found.steps] == [
        (1, None, True), (2, 0.8, False), (0, 0.95, True)
    ]  # fmt: skip


def test_a_soup_that_is_only_as_good_is_not_taken() -> None:
    assert _by_table({(0,): 0.9, (1,): 0.8, (0, 1): 0.9}, 2) == (0,)


def test_of_equal_models_the_first_begins() -> None:
    assert _by_table({(0,): 0.5, (1,): 0.5, (0, 1): 0.6}, 2) == (0, 1)


def test_a_score_that_is_no_number() -> None:
    with pytest.raises(InputError, match="model 2"):
        _by_table({(0,): 0.5, (1,): math.nan}, 2)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=6))
def test_the_soup_is_never_worse_than_the_best_model(values: list[float]) -> None:
    found = greedy_soup(len(values), lambda m: sum(values[i] for i in m) / len(m))
    assert found.score >= max(values)
    assert len(found.steps) == len(values)


def test_one_model_is_its_own_soup() -> None:
    assert _by_table({(0,): 0.5}, 1) == (0,)


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=6, unique=True), st.randoms())
def test_the_order_of_models_with_scores_of_their_own_does_not_matter(
    values: list[int], shuffle: Random
) -> None:
    def taken(given_values: list[int]) -> list[int]:
        def score(members: tuple[int, ...]) -> float:
            return sum(given_values[i] for i in members) / len(members) + 0.1 * len(members)

        return [given_values[i] for i in greedy_soup(len(given_values), score).members]

    moved = list(values)
    shuffle.shuffle(moved)
    assert taken(moved) == taken(values)


@pytest.fixture
def pool(tmp_path: Path) -> list[Path]:
    return [write_model(tmp_path / f"m{i}", weights(2, (12, 8), i)) for i in (1, 2, 3)]


def _near(folder: Path) -> float:
    """How near a model is to the mean of the first and the third."""
    first, third = (weights(2, (12, 8), i)[NORM].float() for i in (1, 3))
    return -float((cermet.open(folder)[NORM].float() - (first + third) / 2).square().sum())


def test_the_output_is_the_average_of_those_taken(pool: list[Path], tmp_path: Path) -> None:
    found = cermet.soup(pool, _near, tmp_path / "out")
    assert set(found.members) == {0, 2}
    entries = [{"model": str(pool[i]), "parameters": {"weight": 1}} for i in found.members]
    cermet.merge({"merge_method": "linear", "models": entries}, tmp_path / "mean")
    one, other = cermet.open(tmp_path / "out"), cermet.open(tmp_path / "mean")
    assert all(torch.equal(one[n], other[n]) for n in other)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m1", "m2", "m3", "mean", "out"]


def test_nothing_is_scored_where_the_end_cannot_be_reached(
    pool: list[Path], tmp_path: Path
) -> None:
    def never(folder: Path) -> float:
        raise AssertionError(folder)

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        cermet.soup(pool, never, tmp_path / "full")
    other = write_model(tmp_path / "other", weights(2, (12, 6), 1))
    with pytest.raises(MismatchError):
        cermet.soup([*pool, other], never, tmp_path / "out")
    with pytest.raises(InputError, match="at least one"):
        cermet.soup([], never, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_score_that_fails_leaves_nothing(pool: list[Path], tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())

    def fails(folder: Path) -> float:
        if "soup" in folder.name:
            raise InputError("no")
        return 1.0

    with pytest.raises(InputError, match="no"):
        cermet.soup(pool, fails, tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before
