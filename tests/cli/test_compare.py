"""`cermet compare`: tables for people, JSON for programs, one sentence for what does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import cermet as library
from tests.cli.commands import Cermet
from tests.docs.pool import make_models
from tests.recipes.pools import llama_config, save, save_llama


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A base with three models tuned from it, and an adapter, in the current folder."""
    make_models(tmp_path)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("pool")
def test_people_get_tables_and_a_recipe_that_plans(cermet: Cermet) -> None:
    done = cermet("compare", "models/base", "models/math", "models/code")
    assert (done.code, done.err) == (0, "")
    lines = [line.split() for line in done.out.splitlines()]
    assert ["math", "2.2", "2.01%", "100%", "0", "of", "39", "100%", "16"] in lines
    assert ["layer", "0", "2.59", "k", "2.06%", "2.02%", "-0.003", "50%"] in lines
    for words in (
        "All 39 tensors have the same names and shapes.",
        "All come from one ancestor",
        "in 12 matrices",
        "slerp: takes 1 model beside a base",
        "led_merging: needs statistics",
    ):
        assert words in done.out
    recipe = done.out.partition("merge_method")[1:]
    text = "".join(recipe).partition("\n\n")[0]
    Path("recipe.yaml").write_text(text, "utf-8")
    assert len(library.plan("recipe.yaml").tasks) == 39


@pytest.mark.usefixtures("pool")
@pytest.mark.parametrize("width", [80, 120])
def test_tables_stay_inside_the_terminal(
    width: int, cermet: Cermet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    done = cermet("compare", *(f"models/{n}" for n in ("base", "math", "code", "chat")))
    assert max(map(len, done.out.splitlines())) <= width
    assert "…" not in done.out


@pytest.mark.usefixtures("pool")
def test_many_experts_share_a_column(cermet: Cermet) -> None:
    names = [f"models/{n}" for n in ("base", "math", "code", "chat")]
    done = cermet("compare", *names, "models/base+adapters/chat", "--subspaces", "2")
    assert "mean of 4" in done.out
    assert "base+chat leaves as they are" in done.out


@pytest.mark.usefixtures("pool")
def test_the_base_is_the_first_or_named(cermet: Cermet) -> None:
    wrong = cermet("compare", "models/math", "models/base", "models/code")
    assert "base looks more like the base" in wrong.out
    assert "Compare again with --base models/base" in wrong.out
    assert "merge_method" not in wrong.out
    right = cermet("compare", "models/math", "models/code", "--base", "models/base", "--json")
    found = json.loads(right.out)
    assert [m["name"] for m in found["models"]] == ["base", "math", "code"]


@pytest.mark.usefixtures("pool")
def test_json_has_a_stable_form(cermet: Cermet) -> None:
    done = cermet("compare", "models/base", "models/math", "models/code", "--json")
    found = json.loads(done.out)
    assert list(found) == [
        "format", "models", "shared", "same_form", "tensor_differences", "config_differences",
        "vocabularies", "pairs", "deltas", "experts", "between", "roles", "layers", "spaces",
        "starts", "tensors", "methods", "recipe", "verdict", "findings", "advice",
    ]  # fmt: skip
    assert found["format"] == 1
    assert list(found["experts"][0]) == [
        "model", "norm", "relative", "changed", "unchanged", "tensors", "kept", "looked_at", "rank",
    ]  # fmt: skip
    assert list(found["between"][0]) == [
        "first", "second", "cosine", "both", "conflict", "left", "right", "chance_left",
        "chance_right",
    ]  # fmt: skip
    assert list(found["roles"][0]) == [
        "name", "tensors", "parameters", "base_norm", "norms", "weights", "cosines", "changed",
        "conflict",
    ]  # fmt: skip
    assert len(found["tensors"]) == found["shared"] == 39
    assert {"name": "slerp", "applies": False, "reason": "takes 1 model beside a base",
            "experimental": False} in found["methods"]  # fmt: skip
    library.plan(found["recipe"])


def test_unrelated_models_get_the_cosines_of_their_weights(cermet: Cermet, tmp_path: Path) -> None:
    paths = [save_llama(tmp_path / name, i) for i, name in enumerate("ab")]
    done = cermet("compare", *paths)
    assert done.code == 0
    assert (
        "a and b: unrelated; the cosine of their attention and MLP matrices is 0.0126" in done.out
    )
    assert "cosine of weights" in done.out
    assert "none applies: a and b share no ancestor (cosine 0.013)" in done.out
    assert "merge_method" not in done.out


def test_equal_models_and_models_of_another_form(cermet: Cermet, tmp_path: Path) -> None:
    paths = [save_llama(tmp_path / name) for name in "ab"]
    same = cermet("compare", *paths).out
    assert "a and b have equal weights in all 21 tensors they share." in same
    assert "none applies: the weights are equal" in same
    other = cermet("compare", paths[0], save_llama(tmp_path / "c", layers=3)).out
    assert (
        "c differs from a in 9 tensors: model.layers.2.input_layernorm.weight is one more" in other
    )
    assert "use slices to choose layers" in other


def test_every_wrong_input_is_one_sentence(cermet: Cermet, tmp_path: Path) -> None:
    model = save_llama(tmp_path / "a")
    packed = {"model.layers.0.self_attn.q_proj.qweight": torch.zeros(2, 4, dtype=torch.int32)}
    save(tmp_path / "gptq", packed, llama_config(quantization_config={"quant_method": "gptq"}))
    save_file({"x": torch.zeros(2, dtype=torch.float8_e5m2)}, tmp_path / "fp8.safetensors")
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    cases = {
        (): (2, "takes two models or more; `cermet inspect` looks at one"),
        ("a",): (2, "is named twice"),
        ("nowhere/",): (2, "There is no folder"),
        ("lora",): (2, "is an adapter and no model; write it behind its base, as BASE+"),
        ("gptq",): (3, "is quantised with gptq (tensor 'model.layers.0.self_attn.q_proj.qweight')"),
        ("fp8.safetensors",): (3, "is F8_E5M2 and has no scales beside it"),
    }
    for names, (code, words) in cases.items():
        done = cermet("compare", model, *(str(tmp_path / name) for name in names))
        assert (done.code, done.out) == (code, ""), names
        assert words in done.said, names
    other = save_llama(tmp_path / "b", 1)
    small = cermet("compare", model, other, "--memory", "1KB")
    assert (small.code, "--memory" in small.said) == (4, True)
