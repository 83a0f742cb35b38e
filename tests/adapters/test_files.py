"""Adapters on disk: what is written is what PEFT loads, and adds the weighted sum of the deltas."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import cermet
from tests.adapters.nets import adapted, expected, save_adapter

FIRST: dict[str, Any] = {"r": 2, "lora_alpha": 5}
SECOND: dict[str, Any] = {
    "r": 3, "lora_alpha": 4, "use_rslora": True, "rank_pattern": {"down": 4},
    "alpha_pattern": {"up": 2},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters of every kind of module, of different ranks and scales."""
    root = tmp_path_factory.mktemp("adapters")
    save_adapter(root / "a", 1, ["embed", "up", "conv", "turned"], fan_in_fan_out=True, **FIRST)
    save_adapter(root / "b", 2, ["embed", "up", "down", "conv"], **SECOND)
    save_adapter(root / "plain", 6, ["down", "conv"], r=4, lora_alpha=6)
    save_adapter(root / "trained", 7, ["up"], bias="all", **FIRST)
    save_adapter(root / "biased", 3, ["up", "down"], lora_bias=True, **FIRST)
    save_adapter(root / "headed", 4, ["up"], modules_to_save=["head"], **FIRST)
    save_adapter(root / "headed2", 5, ["up"], modules_to_save=["head"], **FIRST)
    return root


def recipe(method: str, given: Mapping[Path, float], **parameters: Any) -> dict[str, Any]:
    """A recipe of adapters with their weights."""
    models = [{"model": str(m), "parameters": {"weight": w}} for m, w in given.items()]
    return {"merge_method": method, "models": models, "parameters": parameters}


def _compare(out: Path, given: Mapping[Path, float]) -> None:
    found = adapted(out)
    for name, value in expected(given).items():
        torch.testing.assert_close(
            found[name], value, rtol=0, atol=2e-6, msg=lambda m, n=name: n + m
        )


@pytest.mark.parametrize("method", ["lora_sum", "lora_reduced", "task_arithmetic"])
@pytest.mark.parametrize("pair", [("a", "b"), ("b", "a"), ("plain", "biased"), ("biased", "plain")])
def test_peft_loads_the_sum(
    method: str, pair: tuple[str, str], folder: Path, tmp_path: Path
) -> None:
    given = {folder / pair[0]: 0.7, folder / pair[1]: -0.4}
    known = {} if method == "lora_sum" else {"rank": 7}
    done = cermet.merge(recipe(method, given, **known), tmp_path / "out")
    _compare(tmp_path / "out", given)
    assert set(done.lost) == {"embed", "up", "conv", "turned", "down"} & set(done.lost)
    assert max(done.lost.values()) < 1e-6
    assert cermet.verify(tmp_path / "out").problems == []


@pytest.mark.parametrize("method", ["lora_sum", "task_arithmetic"])
@pytest.mark.parametrize("name", ["a", "b", "biased", "headed"])
def test_one_adapter_comes_back_as_itself(
    method: str, name: str, folder: Path, tmp_path: Path
) -> None:
    cermet.merge(recipe(method, {folder / name: 1.0}), tmp_path / "out")
    _compare(tmp_path / "out", {folder / name: 1.0})


def test_a_module_saved_whole_is_taken_as_it_is(folder: Path, tmp_path: Path) -> None:
    given = {folder / "a": 0.5, folder / "headed": 0.5}
    cermet.merge(recipe("lora_sum", given), tmp_path / "out")
    whole = load_file(folder / "headed" / "adapter_model.safetensors")
    found = load_file(tmp_path / "out" / "adapter_model.safetensors")
    for name in ("base_model.model.head.weight", "base_model.model.head.bias"):
        assert torch.equal(found[name], whole[name])
    torch.testing.assert_close(
        adapted(tmp_path / "out")["head.weight"], adapted(folder / "headed")["head.weight"]
    )


def test_trained_biases_of_the_base_are_carried(folder: Path, tmp_path: Path) -> None:
    given = {folder / "plain": 0.5, folder / "trained": 1.0}
    cermet.merge(recipe("lora_sum", given), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["bias"] == "all"
    _compare(tmp_path / "out", given)


def test_two_that_are_saved_whole_are_averaged_with_a_warning(folder: Path, tmp_path: Path) -> None:
    given = {folder / "headed": 0.5, folder / "headed2": 0.1}
    done = cermet.merge(recipe("lora_sum", given), tmp_path / "out")
    heads = [adapted(m)["head.weight"] for m in given]
    torch.testing.assert_close(
        adapted(tmp_path / "out")["head.weight"], (heads[0] + heads[1]) / 2, rtol=0, atol=1e-6
    )
    assert any("'head.weight' stands whole in 2 adapters" in w for w in done.warnings)


def test_what_stands_beside_the_weights(folder: Path, tmp_path: Path) -> None:
    given = {folder / "a": 0.5, folder / "b": 0.5}
    cermet.merge({**recipe("lora_sum", given), "base_model": "acme/net"}, tmp_path / "out")
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {
        "README.md", "adapter_config.json", "adapter_model.safetensors", "cermet.json",
    }  # fmt: skip
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (
        5, 5, "acme/net",
    )  # fmt: skip
    assert config["rank_pattern"] == {"turned": 2, "down": 4} == config["alpha_pattern"]
    assert config["target_modules"] == ["conv", "down", "embed", "turned", "up"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "base_model:\n- acme/net\nbase_model_relation: adapter\nlibrary_name: peft\n" in card
    record = json.loads((tmp_path / "out" / "cermet.json").read_text())
    assert record["modules"]["turned"]["adapters"] == [0]
    assert record["modules"]["up"]["parameters"] == {"weight": [0.5, 0.5]}


def test_adapters_that_say_the_same_keep_their_targets(folder: Path, tmp_path: Path) -> None:
    save_adapter(tmp_path / "c", 9, ["up", "down"], **FIRST)
    save_adapter(tmp_path / "d", 8, ["up", "down"], **FIRST)
    cermet.merge(recipe("lora_reduced", {tmp_path / "c": 1, tmp_path / "d": 1}), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert sorted(config["target_modules"]) == ["down", "up"]
    assert (config["r"], config["rank_pattern"]) == (2, {})


@pytest.mark.parametrize(
    "method", ["lora_sum", "lora_dare_linear_svd", "dare_ties", "ties_official"]
)
def test_the_same_bytes_from_any_number_of_threads(
    method: str, folder: Path, tmp_path: Path
) -> None:
    """ties_official looks at the whole model before it merges."""
    given = {folder / "a": 0.5, folder / "b": 0.8}
    known: dict[str, Any] = {} if method == "lora_sum" else {"density": 0.6}
    written = recipe(method, given, **known)
    if method == "ties_official":
        for model in written["models"]:
            del model["parameters"]
    held = []
    for threads in (1, 2):
        out = tmp_path / str(threads)
        cermet.merge({**written, "seed": 4}, out, threads=threads, block=7)
        held.append((out / "adapter_model.safetensors").read_bytes())
        assert cermet.verify(out, threads=3 - threads).problems == []
    assert held[0] == held[1]


def test_out_dtype_is_rounded_to_once(folder: Path, tmp_path: Path) -> None:
    given = {folder / "a": 0.5, folder / "b": 0.8}
    for name, dtype in (("wide", "float32"), ("narrow", "bfloat16")):
        cermet.merge({**recipe("lora_reduced", given), "out_dtype": dtype}, tmp_path / name)
    wide, narrow = (
        load_file(tmp_path / name / "adapter_model.safetensors") for name in ("wide", "narrow")
    )
    assert all(torch.equal(narrow[name], tensor.bfloat16()) for name, tensor in wide.items())


@pytest.mark.parametrize("harm", ["weights", "config", "source"])
def test_what_has_changed_is_found(harm: str, folder: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "c", tmp_path / "out"
    save_adapter(source, 9, ["up", "down"], **FIRST)
    cermet.merge(recipe("lora_sum", {source: 1.0, folder / "b": 1.0}), out)
    if harm == "source":
        save_adapter(source, 10, ["up", "down"], **FIRST)
    elif harm == "config":
        file = out / "adapter_config.json"
        file.write_text(file.read_text().replace('"lora_alpha": ', '"lora_alpha": 1'))
    else:
        raw = bytearray((out / "adapter_model.safetensors").read_bytes())
        raw[-1] ^= 1
        (out / "adapter_model.safetensors").write_bytes(raw)
    (problem, *_) = cermet.verify(out).problems
    assert {
        "weights": "has changed since it was written",
        "config": "'adapter_config.json' has changed since it was written",
        "source": "'adapter_model.safetensors' of",
    }[harm] in problem


def test_licences_of_the_adapters(folder: Path, tmp_path: Path) -> None:
    """They are those of the result, or a warning says why there is none."""
    pair = [save_adapter(tmp_path / name, 9, ["up", "down"], **FIRST) for name in "cd"]
    for adapter in pair:
        (adapter / "README.md").write_text("---\nlicense: mit\n---\n")
    done = cermet.merge(recipe("lora_sum", dict.fromkeys(pair, 1.0)), tmp_path / "out")
    assert done.warnings == ()
    assert "license: mit\n" in (tmp_path / "out/README.md").read_text()
    (pair[1] / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    done = cermet.merge(recipe("lora_sum", dict.fromkeys(pair, 1.0)), tmp_path / "out2")
    assert any("may conflict" in warning for warning in done.warnings)
    record = json.loads((tmp_path / "out2/cermet.json").read_text())
    assert [o["license"] for o in record["origins"]] == [["mit"], ["cc-by-nc-4.0"]]
    assert cermet.verify(tmp_path / "out2").problems == []
