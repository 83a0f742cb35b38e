"""How parameters as written become numbers: forms, filters, gradients, depth, precedence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cermet.core.errors import RecipeError
from tests.recipes.pools import llama_config, planned, save, save_llama, task

_LAYERS = 5


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    root = tmp_path_factory.mktemp("pool")
    return save_llama(root / "a", 1, _LAYERS), save_llama(root / "b", 2, _LAYERS)


def _slerp(pool: tuple[str, str], t: Any) -> dict[str, float]:
    """What `t` comes to for every tensor."""
    a, b = pool
    recipe = {
        "merge_method": "slerp",
        "base_model": a,
        "models": [{"model": b}],
        "parameters": {"t": t},
    }
    return {found.name: found.parameters["t"] for found in planned(recipe).tasks}


def test_a_number_holds_for_every_tensor(pool: tuple[str, str]) -> None:
    assert set(_slerp(pool, 0.3).values()) == {0.3}
    assert set(_slerp(pool, "0.3").values()) == {0.3}  # a number that YAML took for text


def test_a_gradient_runs_over_the_layers_from_first_to_last(pool: tuple[str, str]) -> None:
    found = _slerp(pool, [0, 1])
    for layer in range(_LAYERS):
        name = f"model.layers.{layer}.mlp.up_proj.weight"
        assert found[name] == pytest.approx(layer / (_LAYERS - 1))


def test_a_gradient_is_linear_between_its_values(pool: tuple[str, str]) -> None:
    found = _slerp(pool, [0.0, 0.6, 0.2])
    depths = [found[f"model.layers.{i}.mlp.up_proj.weight"] for i in range(_LAYERS)]
    assert depths == pytest.approx([0.0, 0.3, 0.6, 0.4, 0.2])


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "model.norm.weight", "lm_head"])
def test_tensors_outside_of_layers_take_the_first_value(pool: tuple[str, str], name: str) -> None:
    found = _slerp(pool, [0.25, 0.5, 1.0])
    assert [v for k, v in found.items() if name in k] == [0.25]


@pytest.mark.parametrize("value", [0.000505, 1e-9, 0.123456789012345])
def test_small_gradients_survive(pool: tuple[str, str], value: float) -> None:
    found = _slerp(pool, [value, 3 * value])
    assert found["model.layers.0.mlp.up_proj.weight"] == value
    assert found["model.layers.2.mlp.up_proj.weight"] == pytest.approx(2 * value, rel=1e-12)
    assert found["model.norm.weight"] == value


def test_a_gradient_of_one_value_is_a_number(pool: tuple[str, str]) -> None:
    assert set(_slerp(pool, [0.4]).values()) == {0.4}


def test_a_model_of_one_layer_takes_the_last_value(tmp_path: Path) -> None:
    pool = save_llama(tmp_path / "a", 1, 1), save_llama(tmp_path / "b", 2, 1)
    found = _slerp(pool, [0.1, 0.9])
    assert found["model.layers.0.mlp.up_proj.weight"] == pytest.approx(0.9)


def test_the_first_filter_that_matches_counts(pool: tuple[str, str]) -> None:
    cases = [
        {"filter": "down_proj", "value": 0.1},
        {"filter": "mlp", "value": 0.2},
        {"filter": "down_proj", "value": 0.3},
        {"value": 0.4},
    ]
    found = _slerp(pool, cases)
    assert found["model.layers.1.mlp.down_proj.weight"] == 0.1
    assert found["model.layers.1.mlp.up_proj.weight"] == 0.2
    assert found["model.layers.1.self_attn.q_proj.weight"] == 0.4


def test_a_star_matches_everything(pool: tuple[str, str]) -> None:
    cases = [{"filter": "lm_head", "value": 1}, {"filter": "*", "value": 0.5}]
    found = _slerp(pool, cases)
    assert found.pop("lm_head.weight") == 1
    assert set(found.values()) == {0.5}


def test_a_mapping_alone_is_one_case(pool: tuple[str, str]) -> None:
    assert set(_slerp(pool, {"value": 0.5}).values()) == {0.5}


def test_a_filtered_value_may_be_a_gradient(pool: tuple[str, str]) -> None:
    found = _slerp(pool, [{"filter": "mlp", "value": [0, 1]}, {"value": [1, 0]}])
    assert found["model.layers.3.mlp.up_proj.weight"] == pytest.approx(0.75)
    assert found["model.layers.3.self_attn.q_proj.weight"] == pytest.approx(0.25)
    assert found["model.norm.weight"] == 1


def test_filters_may_stand_in_filters(pool: tuple[str, str]) -> None:
    inner = [{"filter": "down", "value": 0.1}, {"value": 0.2}]
    found = _slerp(pool, [{"filter": "mlp", "value": inner}, {"filter": "*", "value": 0.9}])
    assert found["model.layers.0.mlp.down_proj.weight"] == 0.1
    assert found["model.layers.0.mlp.up_proj.weight"] == 0.2
    assert found["lm_head.weight"] == 0.9


def _levels(pool: tuple[str, str], source: Any, piece: Any, top: Any) -> dict[str, Any]:
    """A recipe of one slice with `density` at up to three levels."""
    a, b = pool
    span = [0, _LAYERS]
    own = {"weight": 1.0, **source}
    return {
        "merge_method": "ties",
        "base_model": a,
        "slices": [
            {
                "sources": [
                    {"model": a, "layer_range": span},
                    {"model": b, "layer_range": span, "parameters": own},
                ],
                "parameters": piece,
            }
        ],
        "parameters": top,
    }


def _density(recipe: dict[str, Any], part: str) -> float:
    (value,) = task(planned(recipe), part).parameters["density"]
    return value


_SOURCE, _SLICE, _TOP = {"density": 0.1}, {"density": 0.2}, {"density": 0.3}


@pytest.mark.parametrize(
    ("source", "piece", "top", "expected"),
    [
        (_SOURCE, _SLICE, _TOP, 0.1),
        (_SOURCE, {}, _TOP, 0.1),
        ({}, _SLICE, _TOP, 0.2),
        ({}, {}, _TOP, 0.3),
        ({}, {}, {}, 1.0),
    ],
)
def test_source_goes_before_slice_before_recipe_before_default(
    pool: tuple[str, str], source: Any, piece: Any, top: Any, expected: float
) -> None:
    assert _density(_levels(pool, source, piece, top), "layers.2.mlp.up") == expected


def test_no_match_falls_to_the_next_level(pool: tuple[str, str]) -> None:
    source = {"density": [{"filter": "q_proj", "value": 0.1}]}
    piece = {"density": [{"filter": "mlp", "value": 0.2}]}
    top = {"density": [{"filter": "k_proj", "value": 0.3}]}
    recipe = _levels(pool, source, piece, top)
    found = {p: _density(recipe, f"layers.0.{p}") for p in ("self_attn.q", "mlp.up", "self_attn.k")}
    assert found == {"self_attn.q": 0.1, "mlp.up": 0.2, "self_attn.k": 0.3}
    assert _density(recipe, "layers.0.self_attn.v") == 1.0


def test_a_required_parameter_with_no_match_is_refused(pool: tuple[str, str]) -> None:
    with pytest.raises(RecipeError, match=r"'slerp' needs 't' for tensor 'lm_head\.weight'"):
        _slerp(pool, [{"filter": "layers", "value": 0.5}])


def test_each_model_has_its_own_value_and_gradient(pool: tuple[str, str]) -> None:
    a, b = pool
    recipe = {
        "merge_method": "linear",
        "models": [
            {"model": a, "parameters": {"weight": [0, 1]}},
            {"model": b, "parameters": {"weight": [{"filter": "mlp", "value": 3}, {"value": 2}]}},
        ],
    }
    plan = planned(recipe)
    assert task(plan, "layers.4.mlp.up").parameters["weight"] == (1.0, 3.0)
    assert task(plan, "layers.1.self_attn.q").parameters["weight"] == (0.25, 2.0)


def test_truth_values_step_along_a_gradient(pool: tuple[str, str]) -> None:
    a, b = pool
    recipe = {
        "merge_method": "linear",
        "models": [{"model": m, "parameters": {"weight": 1}} for m in (a, b)],
        "parameters": {"normalize": [False, True]},
    }
    plan = planned(recipe)
    found = [task(plan, f"layers.{i}.mlp.up").parameters["normalize"] for i in range(_LAYERS)]
    assert found == [False, False, False, False, True]


@pytest.mark.parametrize(("written", "meant"), [("yes", True), ("off", False), (1, True), (0, 0)])
def test_truth_values_as_older_yaml_writes_them(
    pool: tuple[str, str], written: Any, meant: bool
) -> None:
    a, b = pool
    recipe = {
        "merge_method": "linear",
        "models": [{"model": m, "parameters": {"weight": 1}} for m in (a, b)],
        "parameters": {"normalize": written},
    }
    assert task(planned(recipe), "lm_head").parameters["normalize"] is bool(meant)


def test_lambda_keeps_its_name(pool: tuple[str, str]) -> None:
    a, b = pool
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": a,
        "models": [{"model": b, "parameters": {"weight": 1}}],
        "parameters": {"lambda": 0.5},
    }
    assert task(planned(recipe), "lm_head").parameters["lambda_"] == 0.5


@pytest.mark.parametrize("layers", [24, 36, 48])
def test_a_list_with_an_entry_for_each_layer_gives_each_its_own(
    layers: int, tmp_path: Path
) -> None:
    """Rounded depths give no trace of a neighbour: a layer at 0 stays at 0."""
    shapes = {f"model.layers.{i}.mlp.up_proj.weight": torch.zeros(1, 1) for i in range(layers)}
    config = llama_config(layers)
    base, expert = (save(tmp_path / name, shapes, config) for name in ("base", "expert"))
    values = [float(i % 2) for i in range(layers)]
    own = {"model": expert, "parameters": {"weight": values}}
    plan = planned({"merge_method": "ties", "base_model": base, "models": [own]})
    found = [task(plan, f"layers.{i}.mlp").parameters["weight"] for i in range(layers)]
    assert found == [(value,) for value in values]
