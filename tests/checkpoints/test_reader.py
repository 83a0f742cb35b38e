"""Reading checkpoints: every layout on disk, slices without copies, `cermet.open`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import cermet
from cermet.checkpoints.reader import MemoryCheckpoint, open_checkpoint
from cermet.core.errors import FormatError, InputError

_INDEX = "model.safetensors.index.json"


def _tensors() -> dict[str, Tensor]:
    own = torch.Generator().manual_seed(0)
    return {
        "model.embed_tokens.weight": torch.randn(7, 4, generator=own),
        "model.layers.0.mlp.up_proj.weight": torch.randn(5, 4, generator=own).bfloat16(),
        "model.layers.0.mlp.down_proj.weight": torch.randn(4, 5, generator=own).half(),
        "model.norm.weight": torch.randn(4, generator=own).double(),
        "ids": torch.arange(3),
    }


def _shards(folder: Path) -> dict[str, str]:
    """Two files; which tensor is where."""
    values = _tensors()
    names = list(values)
    places = {}
    for number, part in enumerate((names[:2], names[2:]), start=1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file({n: values[n] for n in part}, folder / file)
        places |= dict.fromkeys(part, file)
    return places


def _one(folder: Path) -> Path:
    save_file(_tensors(), folder / "model.safetensors")
    return folder


def _other_name(folder: Path) -> Path:
    save_file(_tensors(), folder / "weights.safetensors")
    return folder


def _indexed(folder: Path) -> Path:
    (folder / _INDEX).write_text(json.dumps({"weight_map": _shards(folder)}))
    return folder


def _unindexed(folder: Path) -> Path:
    _shards(folder)
    return folder


def _file(folder: Path) -> Path:
    return _one(folder) / "model.safetensors"


def _bin(folder: Path) -> Path:
    torch.save(_tensors(), folder / "pytorch_model.bin")
    return folder


def _bins(folder: Path) -> Path:
    values, places = _tensors(), {}
    for number, part in enumerate((list(values)[:2], list(values)[2:]), start=1):
        file = f"pytorch_model-{number:05d}-of-00002.bin"
        torch.save({n: values[n] for n in part}, folder / file)
        places |= dict.fromkeys(part, file)
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    return folder


def _beside_adapter(folder: Path) -> Path:
    save_file({"lora": torch.ones(1)}, folder / "adapter_model.safetensors")
    return _one(folder)


_LAYOUTS = {
    f.__name__: f
    for f in (_one, _other_name, _indexed, _unindexed, _file, _bin, _bins, _beside_adapter)
}


def _same(found: Mapping[str, Tensor]) -> None:
    expected = _tensors()
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


@pytest.mark.parametrize("layout", _LAYOUTS)
def test_every_layout_holds_the_same_tensors(layout: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    path = _LAYOUTS[layout](tmp_path)
    _same(cermet.open(path))
    opened = open_checkpoint(path)
    assert opened.config == {"model_type": "llama"}
    assert opened.path == str(path)


@pytest.mark.parametrize("layout", _LAYOUTS)
def test_a_slice_is_flat_and_in_the_stored_dtype(layout: str, tmp_path: Path) -> None:
    opened = open_checkpoint(_LAYOUTS[layout](tmp_path))
    for name, tensor in _tensors().items():
        flat = tensor.reshape(-1)
        for start, stop in ((0, 1), (1, len(flat)), (2, 3), (2, 2)):
            block = opened.block(name, start, stop)
            assert torch.equal(block, flat[start:stop])
            assert block.dtype == tensor.dtype


def test_the_index_says_which_files_count(tmp_path: Path) -> None:
    _indexed(tmp_path)
    save_file({"other": torch.ones(2)}, tmp_path / "consolidated.safetensors")
    _same(cermet.open(tmp_path))


def test_a_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_file({"x": torch.ones(2)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(FormatError, match=r"'x' stands in .*one\.safetensors.* and in .*two"):
        open_checkpoint(tmp_path)


def test_nothing_to_read_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no weights: neither \*\.safetensors nor"):
        cermet.open(tmp_path)
    with pytest.raises(InputError, match="There is no folder 'nowhere'"):
        cermet.open("nowhere")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(InputError, match=r"neither a folder nor a \.safetensors or \.bin file"):
        cermet.open(tmp_path / "notes.txt")


@pytest.mark.parametrize("layout", ["_one", "_indexed", "_file"])
def test_blocks_are_views_of_the_file(layout: str, tmp_path: Path) -> None:
    """Two reads give the same memory, and a write to one of them never reaches the file."""
    path = _LAYOUTS[layout](tmp_path)
    opened = open_checkpoint(path)
    name = "model.embed_tokens.weight"
    whole, part = opened.block(name, 0, 28), opened.block(name, 4, 8)
    assert part.data_ptr() == whole.data_ptr() + 4 * whole.element_size()
    whole.fill_(7)
    _same(cermet.open(path))


def test_open_reads_when_it_is_asked(tmp_path: Path) -> None:
    found = cermet.open(_one(tmp_path))
    assert isinstance(found, Mapping)
    assert (len(found), "ids" in found, "idz" in found) == (5, True, False)
    one = found["model.embed_tokens.weight"]
    assert one.data_ptr() == found["model.embed_tokens.weight"].data_ptr()
    with pytest.raises(KeyError):
        found["idz"]
    assert list(found) == list(found.keys())


def test_open_gives_scalars_and_empty_tensors_their_shape(tmp_path: Path) -> None:
    save_file({"s": torch.tensor(1.5), "e": torch.empty(0, 3)}, tmp_path / "model.safetensors")
    found = cermet.open(tmp_path)
    assert (found["s"].shape, found["s"].item()) == ((), 1.5)
    assert found["e"].shape == (0, 3)


def _adapter(folder: Path) -> Tensor:
    """An adapter of rank 2 for the up projection; the delta that it stands for."""
    folder.mkdir()
    own = torch.Generator().manual_seed(1)
    left, right = torch.randn(5, 2, generator=own), torch.randn(2, 4, generator=own)
    module = "base_model.model.model.layers.0.mlp.up_proj"
    factors = {f"{module}.lora_A.weight": right, f"{module}.lora_B.weight": left}
    save_file(factors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "target_modules": ["up_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return 3 * left @ right


def test_open_applies_an_adapter(tmp_path: Path) -> None:
    delta = _adapter(tmp_path / "adapter")
    found = cermet.open(f"{_one(tmp_path)}+{tmp_path / 'adapter'}")
    name = "model.layers.0.mlp.up_proj.weight"
    torch.testing.assert_close(found[name], _tensors()[name].float() + delta)
    assert torch.equal(found["model.norm.weight"], _tensors()["model.norm.weight"])


def test_tensors_in_memory_are_a_checkpoint() -> None:
    opened = MemoryCheckpoint("here", _tensors())
    assert torch.equal(opened.block("ids", 1, 3), torch.tensor([1, 2]))
    assert opened.tensors["model.norm.weight"].dtype == "F64"
    turned = MemoryCheckpoint("here", {"x": torch.arange(6.0).view(2, 3).t()})
    assert turned.block("x", 0, 3).tolist() == [0, 3, 1]
    with pytest.raises(FormatError, match=r"'z' of here is torch\.complex64"):
        MemoryCheckpoint("here", {"z": torch.ones(2, dtype=torch.complex64)})


def test_a_file_of_torch_is_a_checkpoint(tmp_path: Path) -> None:
    torch.save(_tensors(), tmp_path / "weights.bin")
    found = open_checkpoint(tmp_path / "weights.bin")
    assert set(found.tensors) == set(_tensors())
