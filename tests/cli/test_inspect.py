"""`cermet inspect`: tables for people, JSON for programs, one sentence for what it cannot read."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.cli.commands import Cermet
from tests.docs.pool import make_models
from tests.recipes.pools import llama, llama_config, save, save_llama


def test_people_get_what_it_is(cermet: Cermet, tmp_path: Path) -> None:
    done = cermet("inspect", save_llama(tmp_path / "a"))
    assert (done.code, done.err) == (0, "")
    head, *rest = done.out.splitlines()
    assert head.endswith(
        "LlamaForCausalLM (llama), 5,712 parameters in 21 tensors, 22.8 kB in 1 file"
    )
    table = [line.split() for line in rest]
    assert ["embedding", "1", "40x16", "640", "11.2%", "F32", "0.103", "0.41"] in table
    assert "model.layers, 2 layers" in rest
    assert "config" in done.out
    assert "hidden size 16, heads 2, key-value heads 2, inner size 24" in done.out
    assert rest[-1] == "Every number is finite; nothing is dead or doubled."


@pytest.mark.parametrize("width", ["80", "120"])
def test_tables_stay_inside_the_terminal(
    width: str, cermet: Cermet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_llama(tmp_path / "a", pad_token_id=1)
    monkeypatch.setenv("COLUMNS", width)
    done = cermet("inspect", "a")
    assert max(map(len, done.out.splitlines())) <= int(width)
    assert "…" not in done.out


def test_headers_are_read_without_weights(cermet: Cermet, tmp_path: Path) -> None:
    weights = llama()
    weights["lm_head.weight"][0, 0] = math.nan
    path = save(tmp_path / "a", weights, llama_config())
    done = cermet("inspect", path, "--headers")
    assert "Headers are in order; the weights were not read." in done.out
    assert "rms" not in done.out
    assert "! lm_head.weight holds 1 NaN" in cermet("inspect", path).out


def test_json_has_a_stable_form(cermet: Cermet, tmp_path: Path) -> None:
    found = json.loads(cermet("inspect", save_llama(tmp_path / "a"), "--json").out)
    assert list(found) == [
        "format", "path", "kind", "read", "contents", "vocabulary", "adapter", "made", "tensors",
        "duplicates", "repeated_layers", "findings",
    ]  # fmt: skip
    assert (found["format"], found["kind"], found["read"]) == (1, "model", True)
    assert list(found["contents"]) == [
        "architecture", "model_type", "quantisation", "tensors", "parameters", "buffers", "bytes",
        "files", "dtypes", "stacks", "roles", "ties", "facts",
    ]  # fmt: skip
    assert list(found["tensors"][0]) == [
        "name", "dtype", "shape", "role", "bias", "stack", "layer", "expert", "bytes", "norm",
        "rms", "mean", "largest", "zeros", "nan", "infinite", "first_bad", "constant", "dead_rows",
        "dead_columns", "digest",
    ]  # fmt: skip
    assert found["contents"]["stacks"] == [
        {"prefix": "model.layers", "layers": 2, "parameters": 4416, "main": True}
    ]


def test_json_holds_no_number_that_is_none(cermet: Cermet, tmp_path: Path) -> None:
    path = save(tmp_path / "a", {"x": torch.full((4,), 1e200, dtype=torch.float64)})
    (tensor,) = json.loads(cermet("inspect", path, "--json").out)["tensors"]
    assert (tensor["norm"], tensor["largest"]) == (None, 1e200)  # the square overflows


def test_adapters_alone_and_on_a_base(cermet: Cermet, tmp_path: Path) -> None:
    make_models(tmp_path)
    adapter = tmp_path / "adapters" / "chat"
    done = cermet("inspect", adapter)
    assert done.code == 0
    assert "LoRA adapter, 64 parameters, 256 bytes" in done.out
    assert "2; alpha 4; B @ A is multiplied by 2" in done.out
    assert "q_proj (1)" in done.out
    assert f"Write BASE+{adapter} wherever a model is named" in done.out
    both = cermet("inspect", f"{tmp_path / 'models' / 'base'}+{adapter}")
    assert "of the base's" in both.out
    assert "323." in both.out


def test_every_wrong_input_is_one_sentence(cermet: Cermet, tmp_path: Path) -> None:
    whole = Path(save_llama(tmp_path / "a"), "model.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-10])
    save_file({"x": torch.zeros(2, dtype=torch.float8_e4m3fn)}, tmp_path / "fp8.safetensors")
    (tmp_path / "empty").mkdir()
    (tmp_path / "ia3").mkdir()
    (tmp_path / "ia3" / "adapter_config.json").write_text('{"peft_type": "IA3"}')
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    (tmp_path / "text.bin").write_text("no pickle")
    cases = {
        "nowhere/": (2, "There is no folder"),
        "empty": (2, "holds no weights"),
        "m.gguf": (2, "neither a folder nor a .safetensors or .bin file"),
        "cut.safetensors": (3, "it was cut short or added to"),
        "fp8.safetensors": (3, "is F8_E4M3 and has no scales beside it"),
        "ia3": (3, "'peft_type' is 'IA3'"),
        "text.bin": (3, "text.bin"),
        "a+a": (3, "expected the folder of a PEFT adapter"),
        "ia3+a": (2, "is an adapter and no model"),
    }
    for name, (code, words) in cases.items():
        path = "+".join(str(tmp_path / part) for part in name.split("+"))
        done = cermet("inspect", path, "--headers")
        assert (done.code, done.out) == (code, ""), name
        assert words in done.said, name
    small = cermet("inspect", tmp_path / "a", "--memory", "1KB")
    assert (small.code, "--memory" in small.said) == (4, True)
