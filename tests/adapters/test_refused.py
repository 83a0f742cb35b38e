"""Recipes of adapters that make no sense, and adapters that cannot be merged: one sentence each."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import cermet
from tests.adapters.nets import save_adapter
from tests.cli.commands import Cermet

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def cermet_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cermet:
    """The command line in this process."""
    return Cermet(monkeypatch, capsys)


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """Two adapters, a and b, of rank 2."""
    for seed, name in enumerate("ab"):
        save_adapter(tmp_path / name, seed, ["up", "down"], r=2, lora_alpha=4)
    return tmp_path


def _recipe(folder: Path, method: str = "lora_sum", **more: Any) -> dict[str, Any]:
    models = [{"model": str(folder / n), "parameters": {"weight": 0.5}} for n in "ab"]
    return {"merge_method": method, "models": models, **more}


def _edit(folder: Path, **settings: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


def _tensors(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    file = folder / "adapter_model.safetensors"
    held = load_file(file)
    change(held)
    save_file(held, file)


RECIPES: dict[str, tuple[dict[str, Any], str]] = {
    "dtype": ({"dtype": "float32"}, "'dtype' has no meaning for adapters; write out_dtype"),
    "tokenizer": ({"tokenizer_source": "base"}, "'tokenizer_source' has no meaning"),
    "needs": ({"needs": {"x": "y"}}, "'needs' has no meaning for adapters"),
    "weights": ({"merge_method": "linear"}, "works on weights, and adapters are deltas"),
    "parts": ({"merge_method": "emr"}, "'emr' keeps parts of its experts"),
    "statistics": ({"merge_method": "led_merging"}, "needs statistics, so it cannot merge"),
    "rank": ({"merge_method": "ties", "parameters": {"rank": 0}}, "'rank' must be at least 1"),
    "half": ({"merge_method": "ties", "parameters": {"rank": 2.5}}, "'rank' takes a whole number"),
    "no rank": ({"parameters": {"rank": 3}}, "'lora_sum' takes no 'rank'"),
    "filter": (
        {"merge_method": "ties", "parameters": {"rank": [{"filter": "q_proj", "value": 1}]}},
        "the filter 'q_proj' matches no tensor",
    ),
    "density": ({"merge_method": "lora_ties"}, "'lora_ties' needs 'density'"),
}


@pytest.mark.parametrize("name", RECIPES)
def test_recipes(name: str, pair: Path) -> None:
    more, words = RECIPES[name]
    with pytest.raises(cermet.RecipeError, match=re.escape(words)):
        cermet.plan({**_recipe(pair), **more})


def test_a_pipeline(pair: Path) -> None:
    written = _recipe(pair)
    del written["merge_method"]
    for model in written["models"]:
        del model["parameters"]
    written["pipeline"] = [{"task_arithmetic": {"weight": 1}}]
    with pytest.raises(cermet.RecipeError, match="by one method, not by a pipeline"):
        cermet.plan(written)


def test_a_model_among_adapters(pair: Path) -> None:
    (pair / "base").mkdir()
    save_file({"up.weight": torch.ones(8, 6)}, pair / "base" / "model.safetensors")
    written = _recipe(pair)
    written["models"][1]["model"] = str(pair / "base")
    with pytest.raises(
        cermet.RecipeError, match=r"'lora_sum' merges LoRA adapters, and .* is none"
    ):
        cermet.plan(written)
    with pytest.raises(cermet.RecipeError, match="is an adapter, which stands among models"):
        cermet.plan({**written, "merge_method": "task_arithmetic"})
    written["models"][1]["model"] = f"{pair / 'base'}+{pair / 'a'}"
    with pytest.raises(cermet.RecipeError, match="is a model with an adapter on it"):
        cermet.plan(written)


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "dora": ({"use_dora": True}, "is a DoRA adapter, whose deltas depend on its base"),
    "parameters": ({"target_parameters": ["x.experts"]}, "without a module of its own"),
    "tokens": ({"trainable_token_indices": [1, 2]}, "holds trained tokens"),
    "rank": ({"r": 3}, "but its config gives them rank 3"),
    "kind": ({"peft_type": "IA3"}, "only LoRA adapters"),
    "pissa": ({"init_lora_weights": "pissa"}, "which changed the base before training"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_adapters_by_their_config(name: str, pair: Path) -> None:
    settings, words = CONFIGS[name]
    _edit(pair / "b", **settings)
    with pytest.raises(cermet.DataError, match=re.escape(words)):
        cermet.plan(_recipe(pair))


_A = "base_model.model.up.lora_A.weight"
TENSORS: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "missing": (lambda t: t.pop(_A), "'up' has lora_B.weight, not lora_A.weight and"),
    "shape": (lambda t: t.update({_A: torch.ones(2, 9)}), "but linear [8, 9] in"),
    "whole numbers": (lambda t: t.update({_A: t[_A].long()}), "no dtype of weights"),
    "empty": (lambda t: t.update({_A: torch.ones(2, 0)}), "have the shapes [2, 0]"),
}


@pytest.mark.parametrize("name", TENSORS)
def test_adapters_by_their_tensors(name: str, pair: Path) -> None:
    change, words = TENSORS[name]
    _tensors(pair / "b", change)
    with pytest.raises(cermet.DataError, match=re.escape(words)):
        cermet.plan(_recipe(pair))


@pytest.mark.parametrize("method", ["lora_sum", "task_arithmetic"])
def test_nan_is_refused_by_name_and_leaves_nothing(method: str, pair: Path) -> None:
    _tensors(pair / "b", lambda t: t[_A].view(-1)[3].fill_(float("nan")))
    with pytest.raises(
        cermet.NonFiniteError, match=f"'{_A}' of model '.*b' holds nan at element 3"
    ):
        cermet.merge(_recipe(pair, method), pair / "out")
    assert sorted(p.name for p in pair.iterdir()) == ["a", "b"]


def test_a_result_that_leaves_its_dtype(pair: Path) -> None:
    written = {**_recipe(pair), "out_dtype": "float16"}
    written["models"][0]["parameters"]["weight"] = 1e6
    with pytest.raises(cermet.NonFiniteError, match="leaves the range of F16"):
        cermet.merge(written, pair / "out")


def test_different_bases_unless_told(pair: Path) -> None:
    _edit(pair / "a", base_model_name_or_path="acme/one")
    _edit(pair / "b", base_model_name_or_path="acme/two")
    with pytest.raises(cermet.MismatchError, match=r"different bases.*base_model: acme/one"):
        cermet.plan(_recipe(pair))
    told = cermet.plan(_recipe(pair, base_model="acme/one"))
    assert f"'{pair / 'b'}' names the base 'acme/two', not 'acme/one'." in told.warnings


def test_a_bias_beside_an_embedding(pair: Path) -> None:
    save_adapter(pair / "a", 1, ["embed"], r=2, lora_alpha=4)
    save_adapter(pair / "b", 2, ["up"], r=2, lora_alpha=4, lora_bias=True)
    with pytest.raises(cermet.MismatchError, match="'embed' is an embedding; PEFT has no adapter"):
        cermet.plan(_recipe(pair))


def test_a_budget_that_is_too_small_for_a_delta(pair: Path) -> None:
    with pytest.raises(cermet.BudgetError, match=r"The deltas of '\w+' take 0.0\d+ MB at once"):
        cermet.merge(_recipe(pair, "task_arithmetic"), pair / "out", memory=500)


def test_the_output_is_not_an_input(pair: Path) -> None:
    with pytest.raises(cermet.OutputError, match="which is merged, so it cannot be the output"):
        cermet.merge(_recipe(pair), pair / "a", overwrite=True)


def test_an_output_is_replaced_only_when_asked(pair: Path) -> None:
    cermet.merge(_recipe(pair), pair / "out")
    with pytest.raises(cermet.OutputError, match="exists"):
        cermet.merge(_recipe(pair), pair / "out")
    cermet.merge(_recipe(pair, "lora_reduced"), pair / "out", overwrite=True)
    assert json.loads((pair / "out" / "adapter_config.json").read_text())["r"] == 2


def test_an_adapter_is_not_run(pair: Path, cermet_command: Cermet) -> None:
    cermet.merge(_recipe(pair), pair / "out")
    done = cermet_command("verify", pair / "out", "--load")
    assert (done.code, "is an adapter, which is no model to be run" in done.said) == (2, True)


def test_in_memory() -> None:
    with pytest.raises(cermet.InputError, match="There are no adapters"):
        cermet.merge_adapters("lora_sum", [])
    one = ({"x.lora_A.weight": torch.ones(1, 3), "x.lora_B.weight": torch.ones(2, 1)}, _ONE)
    with pytest.raises(cermet.MethodError, match="'weight' has 3 values for 2 adapters"):
        cermet.merge_adapters("lora_sum", [one, one], weight=[1, 2, 3])
    with pytest.raises(cermet.MethodError, match="Did you mean 'lora_sum'"):
        cermet.merge_adapters("lora_sun", [one], weight=1)


_ONE = {"peft_type": "LORA", "r": 1, "lora_alpha": 1}
