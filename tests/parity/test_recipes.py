"""The generator of random recipes: its counts, its determinism, what it puts where."""

from __future__ import annotations

from pathlib import Path

import pytest

from parity.pools import EXPERTS, FAMILIES, Pool
from parity.recipes import FLOORS, Case, check_coverage, coverage, features, make_cases
from parity.settings import METHODS, RANDOM


def _pools() -> dict[tuple[str, str], Pool]:
    """Pools that are only named: the generator reads no file."""
    names = ("base", *(f"expert{i + 1}" for i in range(EXPERTS)))
    return {
        (family.name, dtype): Pool(
            family, dtype, tuple(Path(f"/pools/{family.name}-{dtype}/{n}") for n in names)
        )
        for family in FAMILIES
        for dtype in ("float32", "bfloat16")
    }


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return make_cases(_pools(), 240, 0)


def test_every_promised_count_is_reached(cases: list[Case]) -> None:
    assert check_coverage(cases) == []
    counts = coverage(cases)
    assert min(counts[m] for m in METHODS) >= 8
    assert min(counts[f] for f in FLOORS) >= 30
    assert len(METHODS) == 20


def test_a_short_run_names_what_it_lacks(cases: list[Case]) -> None:
    lacking = check_coverage(cases[:20])
    assert "cases: 20 of 200" in lacking
    assert any(line.startswith("linear: 1 of 8") for line in lacking)


def test_the_seed_decides_every_recipe(cases: list[Case]) -> None:
    assert make_cases(_pools(), 240, 0) == cases
    assert make_cases(_pools(), 240, 1) != cases


def test_a_longer_run_begins_with_the_same_cases(cases: list[Case]) -> None:
    assert make_cases(_pools(), 40, 0) == cases[:40]


def test_features_are_read_off_the_recipe() -> None:
    setting = [{"filter": "mlp", "value": [0.1, 0.2]}, {"value": 1.0}]
    recipe = {"slices": [{"sources": [], "parameters": {"t": setting}}], "dtype": "bfloat16"}
    assert features(recipe) == {"slices", "filter", "gradient", "bfloat16"}
    assert features({"models": [], "parameters": {"t": [0.0, 1.0]}}) == {"gradient"}
    assert features({"models": [], "parameters": {"t": 0.5}}) == set()


def test_only_random_methods_are_compared_in_distribution(cases: list[Case]) -> None:
    kinds = {case.method for case in cases if case.kind == "random"}
    assert kinds == RANDOM
    exact = {case.method for case in cases if case.kind != "random"}
    assert exact >= RANDOM  # without a density they are exact, and compared so


def test_a_twin_computes_the_same_in_float32(cases: list[Case]) -> None:
    twins = [case for case in cases if case.twin is not None]
    assert twins
    for case in twins:
        assert case.kind == "bfloat16"
        assert case.twin is not None
        assert case.twin["dtype"] == "float32"
        assert case.twin["merge_method"] == case.recipe["merge_method"]
        assert "-float32/" not in repr(case.twin)


def test_required_parameters_are_always_given(cases: list[Case]) -> None:
    for case in cases:
        for name in METHODS[case.method].needed:
            setting = case.recipe["parameters"][name]
            if isinstance(setting, list) and isinstance(setting[-1], dict):
                assert setting[-1].get("filter", "*") == "*"
