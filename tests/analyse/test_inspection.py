"""What is found in whole checkpoints: sizes, dead parts, copies, and how they were made."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import cermet
from cermet.core.errors import BudgetError
from tests.recipes.pools import llama, llama_config, merged, save, save_llama

_LAYER = "model.layers."


def test_sizes_by_role_are_those_of_the_tensors(tmp_path: Path) -> None:
    found = cermet.inspect(save_llama(tmp_path / "a"))
    contents, weights = found.contents, llama()
    assert contents is not None
    assert contents.parameters == sum(t.numel() for t in weights.values())
    assert (contents.architecture, contents.model_type) == ("LlamaForCausalLM", "llama")
    assert [(s.prefix, s.layers, s.main) for s in contents.stacks] == [("model.layers", 2, True)]
    ups = [t.double() for n, t in weights.items() if "up_proj" in n]
    up = next(r for r in contents.roles if r.role == "up")
    square = sum(float(t.square().sum()) for t in ups)
    assert (up.tensors, up.shapes, up.dtypes) == (2, ((24, 16),), ("F32",))
    assert up.norm == pytest.approx(math.sqrt(square))
    assert up.rms == pytest.approx(math.sqrt(square / (2 * 24 * 16)))
    assert up.largest == max(float(t.abs().max()) for t in ups)
    assert found.findings == ()


def test_headers_alone_tell_form_and_no_sizes(tmp_path: Path) -> None:
    found = cermet.inspect(save_llama(tmp_path / "a"), headers=True)
    assert not found.read
    assert all(t.norm is None and t.digest is None for t in found.tensors)
    assert found.contents is not None
    assert found.contents.roles[0].rms is None


@pytest.mark.parametrize("threads", [1, 3])
def test_every_form_of_a_checkpoint_gives_the_same_numbers(threads: int, tmp_path: Path) -> None:
    weights = llama(3)
    (tmp_path / "bin").mkdir()
    torch.save(weights, tmp_path / "bin" / "pytorch_model.bin")
    for name in ("bin", "shards"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "config.json").write_text(json.dumps(llama_config()))
    names = sorted(weights)
    for i, part in enumerate((names[:9], names[9:]), start=1):
        file = tmp_path / "shards" / f"model-0000{i}-of-00002.safetensors"
        save_file({n: weights[n] for n in part}, file)
    whole = cermet.inspect(save(tmp_path / "a", weights, llama_config()), threads=1)
    paths = ["bin", "shards", "bin/pytorch_model.bin", "a/model.safetensors"]
    for path in paths:
        found = cermet.inspect(tmp_path / path, threads=threads)
        assert {t.name: t for t in found.tensors} == {t.name: t for t in whole.tensors}


def test_dead_and_broken_parts_are_found(tmp_path: Path) -> None:
    weights = llama()
    weights[_LAYER + "0.mlp.up_proj.weight"][2, 3] = math.nan
    weights[_LAYER + "1.mlp.gate_proj.weight"].zero_()
    weights[_LAYER + "1.self_attn.q_proj.weight"][3:6] = 0
    weights[_LAYER + "1.self_attn.v_proj.weight"].fill_(0.5)
    weights[_LAYER + "0.self_attn.o_proj.weight"][0, 0] = 1e5
    config = llama_config(3, torch_dtype="bfloat16")
    said = "\n".join(cermet.inspect(save(tmp_path / "a", weights, config)).findings)
    for words in (
        "0.mlp.up_proj.weight holds 1 NaN and 0 infinite values, the first at element 35",
        "config.json says 3 layers, the weights hold 2.",
        "config.json says BF16, most of the weights are F32.",
        "1 tensor holds zeros alone: model.layers.1.mlp.gate_proj.weight.",
        "1 tensor holds one value everywhere: model.layers.1.self_attn.v_proj.weight.",
        "3 rows hold zeros alone in model.layers.1.self_attn.q_proj.weight [16, 16].",
        "1 tensor holds numbers beyond float16 (up to 1e+05",
    ):
        assert words in said


def test_copies_of_layers_and_of_tensors_are_found(tmp_path: Path) -> None:
    weights = llama(0, layers=4)
    for name in [n for n in weights if ".layers.0." in n]:
        weights[name.replace(".layers.0.", ".layers.2.")] = weights[name].clone()
    copied = weights[_LAYER + "1.self_attn.k_proj.weight"]
    weights[_LAYER + "3.self_attn.q_proj.weight"] = copied.clone()
    found = cermet.inspect(save(tmp_path / "a", weights, llama_config(4)))
    assert [(r.layer, r.of) for r in found.repeated_layers] == [(2, 0)]
    assert (_LAYER + "1.self_attn.k_proj.weight", _LAYER + "3.self_attn.q_proj.weight") in (
        tuple(sorted(group)) for group in found.duplicates
    )
    said = "\n".join(found.findings)
    assert "Layers of model.layers are copies of earlier ones: 2 of 0." in said
    assert said.count("hold the same bytes") == 1  # those of the copied layer are not repeated


def test_ties_are_told_and_one_that_is_stored_twice(tmp_path: Path) -> None:
    weights = llama(head=False)
    config = llama_config(tie_word_embeddings=True)
    tied = cermet.inspect(save(tmp_path / "a", weights, config))
    assert tied.contents is not None
    (tie,) = tied.contents.ties
    assert tie.names == ("model.embed_tokens.weight", "lm_head.weight")
    assert tie.stored == ("model.embed_tokens.weight",)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    (said,) = cermet.inspect(save(tmp_path / "b", weights, config)).findings
    assert "are tied and stored twice, with the same bytes" in said


def test_what_cermet_made_is_told(tmp_path: Path) -> None:
    names = [save_llama(tmp_path / n, i) for i, n in enumerate("abc")]
    recipe = {
        "base_model": names[0],
        "seed": 5,
        "models": [{"model": n} for n in names[1:]],
    }
    merged({**recipe, "merge_method": "emr"}, tmp_path / "assembly")
    found = cermet.inspect(tmp_path / "assembly", headers=True)
    assert found.kind == "assembly"
    assert found.made is not None
    assert (found.made.how, found.made.seed, found.made.experts) == ("emr", 5, ("b", "c"))
    assert found.made.parts_bytes > 0
    steps = [{"trim": {"density": 0.5}}, {"task_arithmetic": {"weight": 1}}]
    merged({**recipe, "pipeline": steps}, tmp_path / "steps")
    made = cermet.inspect(tmp_path / "steps", headers=True).made
    assert made is not None
    assert (made.how, made.models) == ("trim > task_arithmetic", (*names[1:], names[0]))
    (tmp_path / "steps" / "cermet.json").write_text("{}")
    damaged = cermet.inspect(tmp_path / "steps", headers=True)
    assert damaged.made is None
    assert "the record is damaged" in damaged.findings[0]


def test_packed_weights_are_named_and_shown_as_they_are_stored(tmp_path: Path) -> None:
    config = llama_config(quantization_config={"quant_method": "gptq", "bits": 4})
    packed = {_LAYER + "0.self_attn.q_proj.qweight": torch.ones(2, 4, dtype=torch.int32)}
    found = cermet.inspect(save(tmp_path / "a", packed, config))
    assert found.contents is not None
    assert found.contents.quantisation == "gptq, 4 bits"
    assert [d.dtype for d in found.contents.dtypes] == ["I32"]
    assert "is quantised with gptq (tensor" in found.findings[0]


def test_weights_that_are_said_to_be_quantised_and_are_not(tmp_path: Path) -> None:
    path = save_llama(tmp_path / "a", quantization_config={"quant_method": "awq"})
    (said,) = cermet.inspect(path, headers=True).findings
    assert said == "config.json says that the weights are quantised (awq), but they are plain."


def test_eight_bit_floats_are_looked_at_decoded(tmp_path: Path) -> None:
    weights: dict[str, torch.Tensor] = llama()
    name = _LAYER + "0.self_attn.q_proj.weight"
    weights[name] = torch.full((16, 16), 2.0).to(torch.float8_e4m3fn)
    weights[name + "_scale_inv"] = torch.full((1, 1), 0.25)
    config = llama_config(
        quantization_config={"quant_method": "fp8", "weight_block_size": [16, 16]}
    )
    found = cermet.inspect(save(tmp_path / "a", weights, config))
    assert found.contents is not None
    assert found.contents.quantisation == "fp8"
    assert {d.dtype for d in found.contents.dtypes} == {"F32", "F8_E4M3"}
    record = next(t for t in found.tensors if t.name == name)
    assert (record.constant, record.norm) == (0.5, 8.0)
    assert len(found.tensors) == len(llama())  # scales are no tensors of the model


def test_odd_checkpoints_are_no_surprise(tmp_path: Path) -> None:
    odd = {
        "empty": torch.zeros(0, 4),
        "scalar": torch.tensor(2.0),
        "half": torch.tensor([1.0, 2.0], dtype=torch.float16),
        "steps": torch.tensor([7], dtype=torch.int64),
        "mask": torch.tensor([True, False]),
    }
    found = cermet.inspect(save(tmp_path / "a", odd))
    assert found.contents is not None
    assert found.contents.buffers == 2
    seen = {t.name: t for t in found.tensors}
    assert seen["empty"].norm is None
    assert (seen["scalar"].norm, seen["scalar"].constant) == (2.0, None)
    assert seen["half"].norm == pytest.approx(math.sqrt(5))


def test_progress_counts_every_byte(tmp_path: Path) -> None:
    path = save_llama(tmp_path / "a")
    told: list[tuple[int, int]] = []
    bytes_read: list[int] = []
    cermet.inspect(
        path, started=lambda *said: told.append(said), progress=lambda _, n: bytes_read.append(n)
    )
    size = sum(t.nbytes for t in llama().values())
    assert told == [(size, len(llama()))]
    assert sum(bytes_read) == size


def test_a_budget_that_holds_no_window_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="give more with --memory"):
        cermet.inspect(save_llama(tmp_path / "a"), memory=100)


def test_facts_of_the_config_have_one_name(tmp_path: Path) -> None:
    path = save_llama(tmp_path / "a", rope_parameters={"rope_theta": 5e5, "rope_type": "yarn"})
    contents = cermet.inspect(path, headers=True).contents
    assert contents is not None
    assert contents.facts["hidden size"] == 16
    assert (contents.facts["rope theta"], contents.facts["rope"]) == (5e5, "yarn")
