"""What is tried of each method: parameters that it takes, equal budgets, and honest scaling."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import Tensor

from cermet import merge_tensors
from cermet.core.codec import all_codecs
from cermet.core.registry import Method, all_factor_methods, all_methods
from cermet.proving.candidates import candidates
from cermet.proving.grid import _KNOBS, _SUMS, CODECS, FIXED, grid_of, spaced
from cermet.recipes.pool import read_pool
from tests.proving.pools import write_quick_pool
from tests.recipes.pools import llama

_EVERY = {**all_methods(), **all_factor_methods()}
_SCALED = sorted(n for n, m in _EVERY.items() if grid_of(m, 4, 5).scales and not m.needs)


def test_every_method_gets_what_it_takes_and_no_more_points_than_others() -> None:
    for method in _EVERY.values():
        grid = grid_of(method, 4, 5)
        assert len(grid.points) == (5 if grid.knob else 1), method.name
        for point in grid.points:
            assert point.keys() <= method.parameters.keys(), method.name
        required = {n for n, p in method.parameters.items() if p.required}
        assert required - {"loss", "beta", "t"} <= grid.points[0].keys(), method.name


def test_a_factor_of_a_sum_goes_from_half_the_average_to_the_sum() -> None:
    grid = grid_of(_EVERY["task_arithmetic"], 8, 5)
    assert grid.knob == "lambda"
    assert grid.values == [0.0625, 0.125, 0.25, 0.5, 1.0]
    assert grid_of(_EVERY["lora_sum"], 4, 2).values == [0.125, 1.0]


def test_a_factor_of_a_whole_delta_stands_around_one() -> None:
    assert grid_of(_EVERY["tsv_m"], 8, 5).values == [0.25, 0.42, 0.707, 1.19, 2.0]
    assert grid_of(_EVERY["tsv_m"], 3, 1).values == [0.707]


def test_an_average_has_nothing_to_choose() -> None:
    grid = grid_of(_EVERY["linear"], 4, 5)
    assert (grid.knob, grid.points) == (None, ({"weight": 1.0},))


def test_points_are_spread_evenly_or_by_ratio() -> None:
    assert spaced(0.2, 0.6, 5, "even") == (0.2, 0.3, 0.4, 0.5, 0.6)
    assert spaced(1, 16, 5, "ratio") == (1, 2, 4, 8, 16)


def test_tables_name_methods_that_there_are() -> None:
    assert FIXED.keys() | _KNOBS.keys() | _SUMS <= _EVERY.keys()
    assert CODECS.keys() <= all_codecs().keys()
    for name, settings in CODECS.items():
        assert all(s.keys() <= all_codecs()[name].parameters.keys() for s in settings)


def _deltas() -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    base = llama(0)
    return base, [{n: t + 0.1 * llama(s)[n] for n, t in base.items()} for s in range(1, 5)]


@pytest.mark.parametrize("name", _SCALED)
def test_what_is_scaled_instead_of_merged_again_scales(name: str) -> None:
    method: Method = _EVERY[name]
    grid = grid_of(method, 4, 5)
    assert grid.knob is not None
    knob = method.parameters[grid.knob].argument
    base, experts = _deltas()
    rest = {n: v for n, v in grid.points[0].items() if n != grid.knob}
    one, other = (
        merge_tensors(name, base, experts, seed=0, **{**rest, knob: factor})
        for factor in (1.0, 2.5)
    )
    moved = sum(float((other[n] - t).double().norm()) for n, t in base.items())
    wrong = sum(float((other[n] - t - 2.5 * (one[n] - t)).double().norm()) for n, t in base.items())
    assert moved > 0.1
    assert wrong < 1e-5 * moved


def test_knobs_that_are_no_factor_are_merged_at_every_point() -> None:
    assert {"ties", "tsv_m", "wudi", "drm_h", "rht"} <= set(_SCALED)
    assert not {"lines", "opcm", "emr", "twin_merging", "lora_sum", "sce"} & set(_SCALED)


def test_what_cannot_be_run_is_named_with_its_reason(tmp_path: Path) -> None:
    pool = read_pool(write_quick_pool(tmp_path))
    tried, refused = candidates(pool, None, 5)
    reasons = {r.name: r.reason for r in refused}
    assert reasons["slerp"] == "It takes a base and one expert, and the pool has 3."
    assert reasons["nuslerp"] == "It takes exactly 2 models, and the pool has 3."
    assert reasons["led_merging"].startswith("It needs statistics that a bench is not given: imp")
    assert reasons["lm_cocktail"].startswith("It needs the loss of every model")
    assert "lora_sum" not in reasons  # a pool without adapters says nothing of them
    names = {c.name for c in tried}
    assert all_methods().keys() <= names | reasons.keys()
    assert {"localize_and_stitch", "localize_and_stitch, restored"} <= names
    assert {"bitdelta", "compeft density=0.05", "compeft density=0.2"} <= names


def test_two_models_run_what_takes_two(tmp_path: Path) -> None:
    pool = read_pool(write_quick_pool(tmp_path, ["cats", "dogs"]))
    tried, refused = candidates(pool, ["nuslerp", "slerp", "lora_sum"], 5)
    assert [c.name for c in tried] == ["nuslerp"]
    assert [r.name for r in refused] == ["slerp", "lora_sum"]
