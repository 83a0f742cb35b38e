"""Weights of eight and four bits, read as plain ones; packed formats and foreign files refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import cermet
from cermet.checkpoints.quantised import DequantisedCheckpoint
from cermet.core.errors import FormatError, InputError, MismatchError
from cermet.recipes.opening import open_model
from cermet.recipes.schema import parse_model

_BLOCKS = {"quant_method": "fp8", "weight_block_size": [128, 128]}


def _write(folder: Path, tensors: dict[str, Tensor], quantised: Any = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({n: t.clone().contiguous() for n, t in tensors.items()}, folder / "model.safetensors")
    config: dict[str, Any] = {"model_type": "llama", "torch_dtype": "bfloat16"}
    if quantised is not None:
        config["quantization_config"] = quantised
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def _weights(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def _read(folder: Path) -> DequantisedCheckpoint:
    found = open_model(parse_model(str(folder)))
    assert isinstance(found, DequantisedCheckpoint)
    return found


def _by_hand(weight: Tensor, scale: Tensor, block: tuple[int, int]) -> Tensor:
    """Each number times the scale of its block, looked up for each."""
    row = torch.arange(weight.shape[0]) // block[0]
    col = torch.arange(weight.shape[1]) // block[1]
    return weight.float() * scale[row][:, col]


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_blocks_of_eight_bits_are_multiplied_by_their_scales(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    """300 rows are two blocks of 128 and a part of one: an even share would be wrong."""
    weight, scale = _weights(300, 140).to(dtype), _weights(3, 2).abs()
    folder = _write(tmp_path / "m", {"a.weight": weight, "a.weight_scale_inv": scale}, _BLOCKS)
    found = _read(folder)
    assert set(found.tensors) == {"a.weight"}
    assert found.tensors["a.weight"].dtype == "BF16"
    whole = found.block("a.weight", 0, weight.numel())
    assert torch.equal(whole.view(300, 140), _by_hand(weight, scale, (128, 128)))
    for cut in (139, 140, 17_921):
        parts = [found.block("a.weight", s, min(s + cut, 42_000)) for s in range(0, 42_000, cut)]
        assert torch.equal(torch.cat(parts), whole)
    for place in (0, 127, 128, 139, 17_920, 41_999):
        assert torch.equal(found.block("a.weight", place, place + 1), whole[place : place + 1])


@pytest.mark.parametrize(
    ("scale", "name"),
    [
        (torch.tensor(0.5), "weight_scale"),
        (torch.tensor([0.5]), "weight_scale_inv"),
        (torch.arange(1.0, 7.0), "weight_scale"),
        (torch.arange(1.0, 7.0).view(6, 1).bfloat16(), "weight_scale"),
        (torch.arange(1.0, 7.0).view(3, 2), "weight_scale"),
    ],
)
def test_scales_of_a_tensor_of_rows_and_of_a_grid(scale: Tensor, name: str, tmp_path: Path) -> None:
    weight = _weights(6, 8).to(torch.float8_e4m3fn)
    tensors = {"a.weight": weight, f"a.{name}": scale, "a.input_scale": torch.tensor(2.0)}
    found = _read(_write(tmp_path / "m", tensors))
    assert set(found.tensors) == {"a.weight"}
    grid = scale.float().view(*(scale.shape if scale.dim() == 2 else (-1, 1)))
    wide = grid.repeat_interleave(6 // grid.shape[0], 0).repeat_interleave(8 // grid.shape[1], 1)
    assert torch.equal(found.block("a.weight", 0, 48).view(6, 8), weight.float() * wide)


def test_experts_in_one_tensor_have_their_own_grids(tmp_path: Path) -> None:
    weight, scale = _weights(3, 4, 6).to(torch.float8_e4m3fn), _weights(3, 2, 3)
    folder = _write(tmp_path / "m", {"up": weight, "up_scale_inv": scale})
    whole = _read(folder).block("up", 5, 71)
    each = torch.stack([_by_hand(weight[i], scale[i], (2, 2)) for i in range(3)])
    assert torch.equal(whole, each.reshape(-1)[5:71])


def test_exponents_of_eight_bits_are_powers_of_two(tmp_path: Path) -> None:
    weight = torch.ones(4, 1).to(torch.float8_e4m3fn)
    scale = torch.tensor([[127], [130], [0], [254]], dtype=torch.uint8)
    found = _read(_write(tmp_path / "m", {"a.weight": weight, "a.weight_scale_inv": scale}))
    assert found.block("a.weight", 0, 4).tolist() == [1, 8, 2.0**-127, 2.0**127]


def test_mxfp4_is_read_as_transformers_reads_it(tmp_path: Path) -> None:
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    own = torch.Generator().manual_seed(5)
    blocks = torch.randint(0, 256, (2, 6, 3, 16), generator=own, dtype=torch.uint8)
    scales = torch.randint(115, 135, (2, 6, 3), generator=own, dtype=torch.uint8)
    names = ("experts.up_proj_blocks", "experts.up_proj_scales")
    folder = _write(tmp_path / "m", dict(zip(names, (blocks, scales), strict=True)))
    theirs = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    found = _read(folder)
    assert found.tensors["experts.up_proj"].shape == theirs.shape == (2, 96, 6)
    flat = theirs.reshape(-1)
    for start, stop in ((0, 1152), (5, 6), (190, 400), (191, 193), (1000, 1152), (7, 7)):
        assert torch.equal(found.block("experts.up_proj", start, stop), flat[start:stop])


def _quantise(source: Path, target: Path) -> None:
    """The linear layers of a small Llama as eight-bit floats with a scale for each row."""
    tensors = {}
    for name, value in load_file(source / "model.safetensors").items():
        if "_proj." not in name:
            tensors[name] = value
            continue
        scale = value.float().abs().amax(1, keepdim=True) / 448
        tensors[name] = (value.float() / scale).to(torch.float8_e4m3fn)
        tensors[f"{name}_scale"] = scale
    _write(target, tensors)
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fbgemm_fp8"}
    (target / "config.json").write_text(json.dumps(config))


def test_a_merge_of_eight_bit_models_is_a_plain_model_that_loads(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=40, torch_dtype="bfloat16",
    )  # fmt: skip
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        LlamaForCausalLM(config).bfloat16().save_pretrained(tmp_path / f"plain-{name}")
        _quantise(tmp_path / f"plain-{name}", tmp_path / name)
        read = cermet.open(tmp_path / name)
        plain = {n: read[n].float().contiguous() for n in read}
        (tmp_path / f"wide-{name}").mkdir()
        save_file(plain, tmp_path / f"wide-{name}/model.safetensors")
    for kind in ("", "wide-"):
        models = [
            {"model": str(tmp_path / f"{kind}{n}"), "parameters": {"weight": w}}
            for n, w in (("a", 0.25), ("b", 0.75))
        ]
        recipe = {"merge_method": "linear", "out_dtype": "bfloat16", "models": models}
        cermet.merge(recipe, tmp_path / f"out-{kind}", threads=1)
    one, other = (load_file(tmp_path / f"out-{k}/model.safetensors") for k in ("", "wide-"))
    assert all(torch.equal(one[n], other[n]) for n in other)
    assert "quantization_config" not in json.loads((tmp_path / "out-/config.json").read_text())
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out-")
    assert model.dtype == torch.bfloat16
    assert torch.isfinite(model(torch.tensor([[1, 2, 3]])).logits).all()
    assert cermet.verify(tmp_path / "out-").problems == []
    record = json.loads((tmp_path / "out-/cermet.json").read_text())
    (file,) = record["models"][0]["files"]
    assert file["tensors_read"] == file["tensors"]  # the scales too


def test_eight_bits_without_scales_are_refused(tmp_path: Path) -> None:
    folder = _write(tmp_path / "m", {"a.weight": _weights(4, 4).to(torch.float8_e4m3fn)})
    with pytest.raises(FormatError, match=r"'a\.weight' .* is F8_E4M3 and has no scales beside"):
        open_model(parse_model(str(folder)))


def test_a_grid_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    weight = _weights(300, 140).to(torch.float8_e4m3fn)
    tensors = {"a.weight": weight, "a.weight_scale_inv": _weights(3, 2)}
    open_model(
        parse_model(str(_write(tmp_path / "even", tensors)))
    )  # 100 x 70, where nothing is told
    tensors["a.weight_scale_inv"] = _weights(4, 3)
    folder = _write(tmp_path / "m", tensors, _BLOCKS)
    with pytest.raises(FormatError, match=r"is \[4, 3\], which is no grid of blocks over"):
        open_model(parse_model(str(folder)))


_INTS = torch.ones(4, 4, dtype=torch.int32)
_BYTES = torch.ones(4, 4, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("tensors", "method", "named"),
    [
        ({"a.qweight": _INTS, "a.qzeros": _INTS}, "gptq", "gptq"),
        ({"a.qweight": _INTS, "a.qzeros": _INTS}, None, "GPTQ or AWQ"),
        ({"a.weight": _BYTES, "a.weight.absmax": torch.ones(4)}, None, "bitsandbytes"),
        ({"a.weight": _BYTES.to(torch.int8), "a.SCB": torch.ones(4)}, None, "bitsandbytes"),
        ({"a.weight_packed": _INTS}, "compressed-tensors", "compressed-tensors"),
        ({"a.weight": _BYTES, "a.weight_scale": torch.ones(1)}, "bitnet", "bitnet"),
        ({"a.W_q": _BYTES}, "hqq", "hqq"),
        ({"a.codebooks": torch.ones(2, 2)}, "aqlm", "aqlm"),
    ],
)
def test_packed_formats_are_refused_by_name(
    tensors: dict[str, Tensor], method: str | None, named: str, tmp_path: Path
) -> None:
    told = {"quant_method": method} if method else None
    folder = _write(tmp_path / "m", {**tensors, "n.weight": torch.ones(4)}, told)
    with pytest.raises(MismatchError, match=rf"is quantised with {named}.*\. Give the model that"):
        cermet.open(folder)


def test_names_like_those_of_packed_formats_are_names(tmp_path: Path) -> None:
    """Without a word of the config, a codebook is a tensor like any other."""
    folder = _write(tmp_path / "m", {"a.codebooks": torch.ones(2, 2)})
    assert cermet.open(folder)["a.codebooks"].tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize(
    ("file", "named"),
    [
        ("model-Q4_K_M.gguf", "GGUF of llama.cpp"),
        ("flax_model.msgpack", "weights of Flax"),
        ("tf_model.h5", "weights of TensorFlow"),
        ("model.onnx", "an ONNX graph"),
        ("consolidated.00.pth", "the original form of Llama"),
        ("__0_0.distcp", "a distributed checkpoint"),
        ("zero_to_fp32.py", "DeepSpeed"),
        ("model.pt", "a pickle of PyTorch's"),
        ("weights.npz", "arrays of numpy or MLX"),
        ("adapter_config.json", "an adapter; write model"),
    ],
)
def test_foreign_files_are_refused_by_name(file: str, named: str, tmp_path: Path) -> None:
    (tmp_path / file).write_bytes(b"{}")
    with pytest.raises(InputError, match=f"holds no weights.* It holds .*{named}"):
        cermet.open(tmp_path)
    if not file.endswith((".py", ".json")):
        with pytest.raises(InputError, match=f"neither a folder nor .* it is .*{named}"):
            cermet.open(tmp_path / file)


def test_a_pipeline_of_several_models_is_refused_with_one_of_them(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    with pytest.raises(InputError, match=r"a pipeline of several models; give one .*unet"):
        cermet.open(tmp_path)


def test_weights_in_another_form_beside_the_model_are_left_out(tmp_path: Path) -> None:
    _write(tmp_path, {"a": torch.ones(2)}).joinpath("model.safetensors").rename(
        tmp_path / "w.safetensors"
    )
    save_file({"b": torch.ones(2)}, tmp_path / "consolidated.safetensors")
    assert set(cermet.open(tmp_path)) == {"a"}


def test_an_archive_knows_its_base_of_eight_bits(tmp_path: Path) -> None:
    scale, name = torch.tensor(0.5), "model.layers.0.mlp.up_proj.weight"
    folders = []
    for i, factor in enumerate((1, 2, 3)):
        weight = (factor * _weights(8, 16)).to(torch.float8_e4m3fn)
        folders.append(_write(tmp_path / str(i), {name: weight, f"{name}_scale": scale}))
    base, expert, other = folders
    cermet.compress(base, expert, tmp_path / "delta", codec="int8")
    cermet.restore(tmp_path / "delta", tmp_path / "out")
    with pytest.raises(MismatchError, match="is not the base that"):
        cermet.restore(tmp_path / "delta", tmp_path / "wrong", base=other)
