"""The forms that a recipe may take: models, references, bases, dtypes, seeds, versions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cermet import api
from cermet.core.errors import InputError, RecipeError
from cermet.recipes.document import parse_document
from cermet.recipes.schema import ModelRef, parse_model, parse_recipe
from tests.recipes.pools import (
    config_of,
    llama,
    merged,
    planned,
    save,
    save_llama,
    task,
    write_recipe,
)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, str]:
    root = tmp_path_factory.mktemp("pool")
    return tuple(save_llama(root / name, i) for i, name in enumerate("abc"))  # type: ignore[return-value]


_REFERENCES = {
    "path": ModelRef(path="path"),
    "org/name": ModelRef(path="org/name"),
    "org/name@main": ModelRef(path="org/name", revision="main"),
    "org/name+org/adapter": ModelRef(path="org/name", lora="org/adapter"),
    "a@1+b@2": ModelRef(path="a", revision="1", lora="b", lora_revision="2"),
}


@pytest.mark.parametrize("text", _REFERENCES)
def test_a_model_is_a_path_a_revision_and_an_adapter(text: str) -> None:
    assert parse_model(text) == _REFERENCES[text]
    assert str(parse_model(text)) == text


@pytest.mark.parametrize("text", ["", "@main", "a@", "a+", "+b", "a@b@c", "a+b@"])
def test_half_a_model_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not a model; write path, path@revision or model"):
        parse_model(text)


def _first(text: str) -> ModelRef:
    recipe, _ = parse_recipe(parse_document(f"merge_method: linear\nmodels:\n{text}", "r.yaml"))
    assert recipe.models is not None
    return recipe.models[0].model


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("- model: org/name@main", "org/name@main"),
        ("- model: {model: org/name}", "org/name"),
        ("- model: {model: org/name@v1, lora: x@v2}", "org/name@v1+x@v2"),
        ("- model: {model: {path: org/name, revision: v1}}", "org/name@v1"),
        ("- model: {model: {path: a}, lora: {path: b, revision: v2}}", "a+b@v2"),
        ("- model: {model: {path: a}, override_architecture: LlamaForCausalLM}", "a"),
    ],
)
def test_a_model_may_be_written_as_a_mapping(text: str, meant: str) -> None:
    assert _first(text) == parse_model(meant)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("- model: {model: a, lore: b}", "lore"),
        ("- model: {model: {path: a, revison: b}}", "revison"),
        ("- model: {model: {path: a}, lora: {pth: b}}", "pth"),
    ],
)
def test_an_unknown_key_of_such_a_mapping_is_refused(text: str, word: str) -> None:
    with pytest.raises(RecipeError, match=f"r.yaml:3.*unknown key '{word}'"):
        _first(text)


def test_a_base_that_is_not_listed_is_appended(pool: tuple[str, str, str]) -> None:
    a, b, c = pool
    weighted = [{"model": m, "parameters": {"weight": 1}} for m in (b, c)]
    recipe = {"merge_method": "task_arithmetic", "models": weighted, "base_model": a}
    plan = planned(recipe)
    assert [str(m) for m in plan.models] == [b, c, a]
    found = task(plan, "lm_head")
    assert ([n.model for n in found.sources], found.base and found.base.model) == ([0, 1], 2)
    plan = planned({**recipe, "models": [{"model": a}, *weighted]})
    found = task(plan, "lm_head")
    assert ([n.model for n in found.sources], found.base and found.base.model) == ([1, 2], 0)


def test_listed_or_appended_the_base_gives_the_same(
    pool: tuple[str, str, str], tmp_path: Path
) -> None:
    a, b, c = pool
    weighted = [{"model": m, "parameters": {"weight": 0.6, "density": 0.5}} for m in (b, c)]
    recipe = {"merge_method": "ties", "models": weighted, "base_model": a}
    one = merged(recipe, tmp_path / "one")
    two = merged({**recipe, "models": [{"model": a}, *weighted]}, tmp_path / "two")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_base_of_a_method_without_one_is_one_more_model(pool: tuple[str, str, str]) -> None:
    a, b, _ = pool
    recipe = {
        "merge_method": "linear",
        "models": [{"model": b}],
        "base_model": a,
        "parameters": {"weight": 1},
    }
    found = task(planned(recipe), "lm_head")
    assert (len(found.sources), found.base) == (2, None)


def test_models_keep_the_order_of_the_recipe(pool: tuple[str, str, str]) -> None:
    a, b, c = pool
    for order in ([c, a, b], [b, c, a]):
        models = [{"model": m, "parameters": {"weight": i}} for i, m in enumerate(order)]
        plan = planned({"merge_method": "linear", "models": models})
        assert [str(m) for m in plan.models] == order
        assert task(plan, "lm_head").parameters["weight"] == (0, 1, 2)


def test_delta_of_subtracts_another_base(pool: tuple[str, str, str], tmp_path: Path) -> None:
    a, b, c = pool
    one = {"model": c, "delta_of": b, "parameters": {"weight": 2.0}}
    recipe = {"merge_method": "task_arithmetic", "models": [one], "base_model": a}
    found = merged(recipe, tmp_path / "out")["lm_head.weight"]
    first, second, third = (llama(i)["lm_head.weight"] for i in range(3))
    torch.testing.assert_close(found, first + 2 * (third - second))


def test_delta_of_has_no_use_for_weights(pool: tuple[str, str, str]) -> None:
    a, b, _ = pool
    models = [{"model": a, "delta_of": b, "parameters": {"weight": 1}}]
    with pytest.raises(RecipeError, match="'linear' works on weights, so delta_of has no use"):
        planned({"merge_method": "linear", "models": models})


def _linear(pool: tuple[str, str, str], **more: Any) -> dict[str, Any]:
    models = [{"model": m, "parameters": {"weight": 1}} for m in pool]
    return {"merge_method": "linear", "models": models, **more}


@pytest.mark.parametrize(
    ("given", "stored", "spelt"),
    [
        ({}, torch.float32, "float32"),
        ({"dtype": "bfloat16"}, torch.bfloat16, "bfloat16"),
        ({"out_dtype": "float16"}, torch.float16, "float16"),
        ({"dtype": "float32", "out_dtype": "bf16"}, torch.bfloat16, "bfloat16"),
        ({"dtype": "bfloat16", "out_dtype": "float32"}, torch.float32, "float32"),
        ({"out_dtype": "float64"}, torch.float64, "float64"),
        ({"dtype": "torch.float16"}, torch.float16, "float16"),
    ],
)
def test_dtypes_of_files_and_config(
    pool: tuple[str, str, str], given: dict[str, str], stored: torch.dtype, spelt: str,
    tmp_path: Path,
) -> None:  # fmt: skip
    found = merged(_linear(pool, **given), tmp_path / "out")
    assert {t.dtype for t in found.values()} == {stored}
    assert config_of(tmp_path / "out")["torch_dtype"] == spelt


def test_dtype_casts_what_is_read_and_out_dtype_what_is_written(
    pool: tuple[str, str, str], tmp_path: Path
) -> None:
    name = "lm_head.weight"
    rounded = torch.stack([llama(i)[name].bfloat16().double() for i in range(3)]).mean(0)
    exact = torch.stack([llama(i)[name].double() for i in range(3)]).mean(0)
    recipe = _linear(pool, dtype="bfloat16", out_dtype="float32")
    found = merged(recipe, tmp_path / "cast")[name].double()
    assert (found - rounded).abs().max() < 1e-7 < (rounded - exact).abs().max()
    once = merged(_linear(pool, out_dtype="bfloat16"), tmp_path / "once")[name]
    assert torch.equal(once, exact.float().bfloat16())


@pytest.mark.parametrize("key", ["dtype", "out_dtype"])
def test_an_unknown_dtype_is_refused(pool: tuple[str, str, str], key: str) -> None:
    with pytest.raises(RecipeError, match="'int8' is not a dtype of weights"):
        planned(_linear(pool, **{key: "int8"}))


def test_the_seed_decides_random_methods(pool: tuple[str, str, str], tmp_path: Path) -> None:
    a, b, _ = pool
    one = {"model": b, "parameters": {"weight": 1, "density": 0.5}}
    recipe = {"merge_method": "dare_linear", "models": [one], "base_model": a}
    found = [
        merged({**recipe, **seed}, tmp_path / str(i))["lm_head.weight"]
        for i, seed in enumerate(({}, {"seed": 0}, {"seed": 1}))
    ]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[1], found[2])


def test_the_version_may_be_written(pool: tuple[str, str, str]) -> None:
    assert planned(_linear(pool, version=1)).recipe.version == 1
    with pytest.raises(RecipeError, match="version"):
        planned(_linear(pool, version=2))


def test_a_file_and_a_mapping_are_the_same_recipe(
    pool: tuple[str, str, str], tmp_path: Path
) -> None:
    text = """\
models:
  - model: $a
    parameters: &same {weight: 1}
  - model: $b
    parameters:
      <<: *same
  - {model: $c, parameters: {weight: 1}}
merge_method: linear
"""
    path = write_recipe(tmp_path, text, **dict(zip("abc", pool, strict=True)))
    assert api.plan(path).tasks == planned(_linear(pool)).tasks


def test_own_keys_go_before_inherited_ones() -> None:
    text = "a: &a {x: 1, y: 2}\nb: &b {x: 5, z: 3}\nc: {<<: [*a, *b], y: 9}\nd: {y: 9, <<: *a}\n"
    data = parse_document(text, "r.yaml").data
    assert data["c"] == {"x": 1, "y": 9, "z": 3}
    assert data["d"] == {"x": 1, "y": 9}
    with pytest.raises(RecipeError, match=r"r\.yaml:1: '<<' takes a mapping"):
        parse_document("a: {<<: 1}", "r.yaml")


def test_one_file_may_be_a_model(tmp_path: Path) -> None:
    for i, name in enumerate("abc"):
        save(tmp_path / name, llama(i))
    files = tuple(str(tmp_path / n / "model.safetensors") for n in "abc")
    found = merged(_linear(files), tmp_path / "out")  # type: ignore[arg-type]
    expected = torch.stack([llama(i)["lm_head.weight"] for i in range(3)]).mean(0)
    torch.testing.assert_close(found["lm_head.weight"], expected)
    assert not (tmp_path / "out" / "config.json").exists()
