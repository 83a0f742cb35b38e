"""`modules` in a recipe: each part of a model by itself, and the others as they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cermet import api
from cermet.core.errors import RecipeError
from tests.recipes.pools import config_of, llama, llama_config, merged, planned, save, write_recipe
from tests.recipes.senses import logits, reseeded, save_model
from tests.reliability.runs import contents, interrupted

_EYE = "vision_tower.blocks.{}.mlp.fc{}.weight"
_JOIN = "multi_modal_projector.linear.weight"
_UP = "language_model.model.layers.0.mlp.up_proj.weight"
_LAYERS = {"text_config": {"num_hidden_layers": 2}, "vision_config": {"num_hidden_layers": 2}}


def _seeing(seed: int) -> dict[str, Tensor]:
    """A Llama behind a tower of two layers and a projector."""
    draw = torch.Generator().manual_seed(seed)
    found = {f"language_model.{name}": t for name, t in llama(seed).items()}
    for name in [_EYE.format(i, j) for i in (0, 1) for j in (1, 2)] + [_JOIN]:
        found[name] = torch.randn(8, 8, generator=draw)
    return found


@pytest.fixture
def names(tmp_path: Path) -> dict[str, str]:
    """Two models that see, and one of text alone."""
    text = llama_config(2)
    config = {"model_type": "llava", **_LAYERS, "text_config": text, "tie_word_embeddings": False}
    return {
        "a": save(tmp_path / "a", _seeing(1), config),
        "b": save(tmp_path / "b", _seeing(2), config),
        "plain": save(tmp_path / "plain", llama(3), text),
    }


def _half(names: Mapping[str, str], *models: str, **more: Any) -> dict[str, Any]:
    return {"models": [{"model": names[m]} for m in models], "parameters": {"weight": 0.5}, **more}


def _sources(*models: tuple[str, int, int]) -> dict[str, Any]:
    return {"sources": [{"model": m, "layer_range": [a, b]} for m, a, b in models]}


def test_listed_modules_are_merged_and_the_others_kept(
    names: dict[str, str], tmp_path: Path
) -> None:
    modules = {"text_decoder": _half(names, "a", "b"), "projector": _half(names, "b")}
    recipe = {"merge_method": "linear", "modules": modules}
    assert planned(recipe).notes == (f"Kept as '{names['a']}' has it: vision_tower (4 tensors).",)
    found = merged(recipe, tmp_path / "out")
    a, b = _seeing(1), _seeing(2)
    assert found.keys() == a.keys()
    torch.testing.assert_close(found[_UP], (a[_UP] + b[_UP]) / 2)
    assert torch.equal(found[_JOIN], b[_JOIN])
    assert all(torch.equal(found[n], a[n]) for n in a if n.startswith("vision_tower"))
    assert api.verify(tmp_path / "out").problems == []


def test_a_mapped_merge_that_was_stopped_goes_on(names: dict[str, str], tmp_path: Path) -> None:
    modules = {"text_decoder": _half(names, "a", "plain"), "vision_tower": _half(names, "a", "b")}
    recipe = {"merge_method": "linear", "modules": modules}
    api.merge(recipe, tmp_path / "whole", threads=1)
    interrupted(recipe, tmp_path / "out", 9)
    assert api.merge(recipe, tmp_path / "out", threads=1, resume=True).resumed_pieces == 9
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    changed = {**dict(api.open(names["plain"])), "lm_head.weight": torch.zeros(40, 16)}
    save(Path(names["plain"]), changed)
    problems = api.verify(tmp_path / "out").problems
    said = f"tensor 'lm_head.weight' in 'model.safetensors' of '{names['plain']}' has changed"
    assert any(problem.startswith(said) for problem in problems)


def test_a_module_may_have_a_base_of_its_own(names: dict[str, str], tmp_path: Path) -> None:
    modules = {
        "text_decoder": {"models": [{"model": names["a"]}]},
        "vision_tower": {"models": [{"model": names["b"]}], "base_model": names["a"]},
    }
    recipe = {"merge_method": "task_arithmetic", "base_model": names["plain"], "modules": modules}
    found = merged({**recipe, "parameters": {"weight": 0.25}}, tmp_path / "out")
    a, b, text = _seeing(1), _seeing(2), llama(3)
    own = text[_UP.removeprefix("language_model.")]
    torch.testing.assert_close(found[_UP], 0.75 * own + 0.25 * a[_UP])
    eye = _EYE.format(1, 2)
    torch.testing.assert_close(found[eye], 0.75 * a[eye] + 0.25 * b[eye])


def test_a_parameter_is_looked_for_in_the_module_before_the_recipe(names: dict[str, str]) -> None:
    text, tower = _half(names, "a", "b"), _half(names, "a", "b")
    text["parameters"] = {"weight": [{"filter": "mlp", "value": 2.0}]}
    tower["models"][1]["parameters"] = {"weight": 5.0}
    tower["parameters"] = {"weight": 4.0}
    recipe = {"merge_method": "linear", "modules": {"text_decoder": text, "vision_tower": tower}}
    plan = planned({**recipe, "parameters": {"weight": 3.0}})
    weights = {t.name: t.parameters.get("weight") for t in plan.tasks}
    assert weights[_UP] == (2.0, 2.0)
    assert weights["language_model.lm_head.weight"] == (3.0, 3.0)
    assert weights[_EYE.format(0, 1)] == (4.0, 5.0)


def test_slices_of_a_tower_correct_its_config(names: dict[str, str], tmp_path: Path) -> None:
    a, b = names["a"], names["b"]
    slices = [_sources((a, 0, 2)), _sources((b, 1, 2))]
    recipe = {"merge_method": "passthrough", "modules": {"vision_tower": {"slices": slices}}}
    found = merged(recipe, tmp_path / "out")
    assert torch.equal(found[_EYE.format(2, 1)], _seeing(2)[_EYE.format(1, 1)])
    config = config_of(tmp_path / "out")
    assert config["vision_config"]["num_hidden_layers"] == 3
    assert config["text_config"]["num_hidden_layers"] == 2


def test_slices_of_the_language_part(names: dict[str, str], tmp_path: Path) -> None:
    slices = [_sources((names["a"], 0, 2)), _sources((names["plain"], 0, 1))]
    recipe = {"merge_method": "passthrough", "modules": {"language_model": {"slices": slices}}}
    found = merged(recipe, tmp_path / "out")
    own = llama(3)[_UP.removeprefix("language_model.")]
    assert torch.equal(found[_UP.replace(".0.", ".2.")], own)
    config = config_of(tmp_path / "out")
    assert config["text_config"]["num_hidden_layers"] == 3
    assert config["vision_config"]["num_hidden_layers"] == 2


def test_a_model_of_one_module(names: dict[str, str], tmp_path: Path) -> None:
    """mergekit calls it `default`."""
    for name in ("default", "text_decoder"):
        recipe = {"merge_method": "linear", "modules": {name: _half(names, "plain")}}
        found = merged(recipe, tmp_path / name)
        assert found.keys() == llama(3).keys()


_GOOD = """\
merge_method: task_arithmetic
base_model: $a
modules:
  text_decoder:
    models:
      - model: $b
        parameters: {weight: 0.5}
  vision_tower:
    models:
      - model: $b
    parameters: {weight: 0.25}
"""
_OWN = "    parameters: {weight: 0.25}\n"
_CASES = {
    "no module": ("vision_tower:", "vision_towr:", ":8: ", "Did you mean 'vision_tower'?"),
    "modules are listed": (
        "vision_tower:", "encoder:", ":8: ",
        "its modules are text_decoder, multi_modal_projector, vision_tower",
    ),
    "twice": ("vision_tower:", "language_model:", ":8: ", "are the same module"),
    "no tower": (f"$b\n{_OWN}", f"$plain\n{_OWN}", ":10: ", "has no vision_tower like that of"),
    "unknown key": ("        parameters", "        parametrs", ":7: ", "'parametrs'"),
    "unknown key of a module": (
        _OWN, "    parametrs: {}\n", ":11: ", "Did you mean 'parameters'?",
    ),
    "no weight": (_OWN, "", "", "needs 'weight'"),
    "unknown parameter": (_OWN, "    parameters: {wieght: 1}\n", ":11: ", "wieght"),
    "a filter": (
        _OWN, "    parameters: {weight: [{filter: eye, value: 1}, {value: 1}]}\n",
        ":11: ", "the filter 'eye' matches no tensor",
    ),
    "neither": (f"    models:\n      - model: $b\n{_OWN}", "    slices: null\n", ":8: ", "one of"),
    "a range": (
        f"- model: $b\n{_OWN}", "- {model: $b, layer_range: [0, 1]}\n", ":8: ", "layer_range be",
    ),
    "beside models": ("modules:", "models: [{model: $b}]\nmodules:", ":1: ", "exactly one of"),
    "no base there": (
        "base_model: $a", "base_model: $plain", ":8: ", "give the module a base_model that has one",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", _CASES)
def test_refused(case: str, names: dict[str, str], tmp_path: Path) -> None:
    old, new, line, words = _CASES[case]
    assert old in _GOOD
    path = write_recipe(tmp_path, _GOOD.replace(old, new, 1), **names)
    with pytest.raises(RecipeError) as caught:
        api.plan(path)
    assert line in str(caught.value)
    assert words in str(caught.value)


def test_the_good_one_is_planned(names: dict[str, str], tmp_path: Path) -> None:
    assert len(api.plan(write_recipe(tmp_path, _GOOD, **names)).tasks) == len(_seeing(1))


def test_a_part_without_one_stack_is_not_sliced(names: dict[str, str]) -> None:
    slices = {"slices": [_sources((names["a"], 0, 1))]}
    recipe = {"merge_method": "passthrough", "modules": {"projector": slices}}
    with pytest.raises(RecipeError, match="has no stacks of layers, so it cannot be sliced"):
        planned(recipe)


# -- encoder and decoder ------------------------------------------------------------

_AUDIO = {
    "input_features": torch.linspace(-1, 1, 8 * 32).reshape(1, 8, 32),
    "decoder_input_ids": torch.tensor([[3, 9, 27]]),
}
_PROMPT = {"input_ids": torch.tensor([[5, 7]]), "decoder_input_ids": torch.tensor([[3, 9, 27]])}


@pytest.mark.parametrize(("family", "inputs"), [("whisper", _AUDIO), ("t5", _PROMPT)])
def test_encoder_and_decoder(family: str, inputs: dict[str, Tensor], tmp_path: Path) -> None:
    """The encoder of one, the decoder of another, and each with layers more or less."""
    a = save_model(family, tmp_path / "a", seed=1)
    b = reseeded(a, tmp_path / "b", seed=2)
    modules = {"encoder": {"models": [{"model": b}]}, "decoder": {"models": [{"model": a}]}}
    found = merged({"merge_method": "passthrough", "modules": modules}, tmp_path / "both")
    first, second = dict(api.open(a)), dict(api.open(b))
    for name, tensor in found.items():
        assert torch.equal(tensor, (second if "encoder." in name else first)[name])
    logits(tmp_path / "both", **inputs)
    layers = {"encoder": [(a, 0, 2), (b, 1, 2)], "decoder": [(a, 0, 2)]}
    sliced = {m: {"slices": [_sources(s) for s in own]} for m, own in layers.items()}
    merged({"merge_method": "passthrough", "modules": sliced}, tmp_path / "sliced")
    logits(tmp_path / "sliced", **inputs)
    counts = {k: v for k, v in config_of(tmp_path / "sliced").items() if k.endswith("_layers")}
    assert sorted(v for v in counts.values() if v is not None) == [2, 3]
