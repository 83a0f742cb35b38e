"""PyTorch `.bin` checkpoints: read exactly, never executed, refused in one sentence."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import random
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cermet.checkpoints.bins import BinCheckpoint, flat_block, read_bin
from cermet.checkpoints.reader import open_checkpoint
from cermet.core.errors import FormatError

_SINGLE = "pytorch_model.bin"
_INDEX = "pytorch_model.bin.index.json"


def _shard(number: int, count: int = 2) -> str:
    return f"pytorch_model-{number:05d}-of-{count:05d}.bin"


def _values() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "a.weight": torch.randn(6, 5, generator=generator),
        "b.weight": torch.randn(4, 3, generator=generator).bfloat16(),
        "b.scale": torch.tensor(2.5, dtype=torch.float64),
        "ids": torch.arange(7),
        "mask": torch.tensor([True, False]),
        "none": torch.empty(0, 3),
    }


def _all(checkpoint: BinCheckpoint, name: str) -> torch.Tensor:
    info = checkpoint.tensors[name]
    return checkpoint.block(name, 0, info.numel).view(info.shape)


def _holds(checkpoint: BinCheckpoint, values: dict[str, torch.Tensor]) -> None:
    assert checkpoint.tensors.keys() == values.keys()
    for name, value in values.items():
        assert _all(checkpoint, name).dtype == value.dtype
        assert torch.equal(_all(checkpoint, name), value)
        assert checkpoint.tensors[name].nbytes == value.numel() * value.element_size()


@pytest.mark.parametrize("zipped", [True, False])
def test_reads_one_file(zipped: bool, tmp_path: Path) -> None:
    torch.save(_values(), tmp_path / _SINGLE, _use_new_zipfile_serialization=zipped)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    checkpoint = BinCheckpoint(tmp_path, "mine")
    _holds(checkpoint, _values())
    assert checkpoint.path == "mine"
    assert checkpoint.config == {"model_type": "llama"}
    assert checkpoint.tensors["b.weight"].dtype == "BF16"
    assert checkpoint.tensors["a.weight"].begin == -1


def test_is_what_open_checkpoint_gives(tmp_path: Path) -> None:
    torch.save(_values(), tmp_path / _SINGLE)
    assert isinstance(open_checkpoint(tmp_path), BinCheckpoint)


def test_blocks_are_views(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(12.0).view(3, 4)}, tmp_path / _SINGLE)
    checkpoint = BinCheckpoint(tmp_path)
    first, second = checkpoint.block("a", 2, 9), checkpoint.block("a", 0, 12)
    assert first.tolist() == list(range(2, 9))
    assert first.data_ptr() == second.data_ptr() + 2 * 4


@pytest.mark.parametrize("indexed", [True, False])
def test_reads_shards(indexed: bool, tmp_path: Path) -> None:
    names = list(_values())
    parts = {_shard(1): names[:3], _shard(2): names[3:]}
    for file, held in parts.items():
        torch.save({name: _values()[name] for name in held}, tmp_path / file)
    if indexed:
        weight_map = {name: file for file, held in parts.items() for name in held}
        (tmp_path / _INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    checkpoint = BinCheckpoint(tmp_path)
    _holds(checkpoint, _values())
    assert checkpoint.tensors["mask"].file == tmp_path / _shard(2)


def test_the_index_decides_between_two_copies(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2), "b": torch.zeros(2)}, tmp_path / _shard(1))
    torch.save({"a": torch.ones(2)}, tmp_path / _shard(2))
    weight_map = {"a": _shard(2), "b": _shard(1)}
    (tmp_path / _INDEX).write_text(json.dumps({"weight_map": weight_map}))
    assert BinCheckpoint(tmp_path).block("a", 0, 2).tolist() == [1, 1]


def test_shared_storage_is_kept_under_every_name(tmp_path: Path) -> None:
    weight = torch.randn(4, 3)
    torch.save({"embed": weight, "head": weight, "turned": weight.T}, tmp_path / _SINGLE)
    checkpoint = BinCheckpoint(tmp_path)
    _holds(checkpoint, {"embed": weight, "head": weight, "turned": weight.T.contiguous()})


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_a_wrapped_table_is_unwrapped(wrapper: str, tmp_path: Path) -> None:
    torch.save({wrapper: OrderedDict(_values()), "epoch": 3}, tmp_path / _SINGLE)
    _holds(BinCheckpoint(tmp_path), _values())


def test_a_tensor_may_be_called_model(tmp_path: Path) -> None:
    torch.save({"model": torch.ones(2), "state_dict": torch.zeros(1)}, tmp_path / _SINGLE)
    assert read_bin(tmp_path / _SINGLE).keys() == {"model", "state_dict"}


def test_parameters_become_plain_tensors(tmp_path: Path) -> None:
    torch.save({"a": torch.nn.Parameter(torch.ones(3))}, tmp_path / _SINGLE)
    value = BinCheckpoint(tmp_path).block("a", 0, 3)
    assert not value.requires_grad
    assert type(value) is torch.Tensor


def _strided(kind: int) -> torch.Tensor:
    whole = torch.arange(6 * 4 * 10).view(6, 4, 10)
    return [
        whole,
        whole.permute(2, 0, 1),
        whole[:, 1:3, ::3],
        whole[:1].transpose(1, 2),
        whole[2, 3, 4],
        whole.transpose(0, 2)[5:5],
        whole[0, 0, 1:2].expand(5, 4),
    ][kind]


@given(st.integers(0, 6), st.data())
def test_any_cut_of_any_stride(kind: int, data: st.DataObject) -> None:
    value = _strided(kind)
    start = data.draw(st.integers(0, value.numel()))
    stop = data.draw(st.integers(start, value.numel()))
    assert torch.equal(flat_block(value, start, stop), value.reshape(-1)[start:stop])


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (0, 5), (3, 2)])
def test_ranges_outside_are_refused(start: int, stop: int) -> None:
    with pytest.raises(IndexError, match="4"):
        flat_block(torch.ones(2, 2), start, stop)


class _Bomb:
    """Creates a file when it is unpickled without restriction."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.file),)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("forced", [True, False])
def test_code_in_a_pickle_is_never_run(
    zipped: bool, forced: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if forced:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    proof = tmp_path / "executed"
    torch.save(
        {"a": torch.ones(1), "b": _Bomb(proof)},
        tmp_path / _SINGLE,
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(FormatError, match=_SINGLE):
        BinCheckpoint(tmp_path)
    assert not proof.exists()


def _saved(content: object) -> Callable[[Path], None]:
    return lambda folder: torch.save(content, folder / _SINGLE)


def _bytes(content: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / _SINGLE).write_bytes(content)

    return write


def _index(content: object, *files: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for file in files:
            torch.save({"a": torch.ones(2)}, folder / file)
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / _INDEX).write_text(text)

    return write


def _script(folder: Path) -> None:
    with zipfile.ZipFile(folder / _SINGLE, "w") as archive:
        archive.writestr("archive/constants.pkl", pickle.dumps(()))
        archive.writestr("archive/data.pkl", pickle.dumps(()))
        archive.writestr("archive/version", "3")


def _two_sets(folder: Path) -> None:
    torch.save({"a": torch.ones(1)}, folder / _shard(1, 2))
    torch.save({"b": torch.ones(1)}, folder / _shard(1, 3))


def _same_name(folder: Path) -> None:
    for number in (1, 2):
        torch.save({"a": torch.ones(1)}, folder / _shard(number))


_WEIGHTS = {"a": torch.ones(2)}
_MALFORMED: dict[str, tuple[Callable[[Path], None], str]] = {
    "nothing there": (lambda folder: None, "no pytorch_model.bin"),
    "a folder": (lambda folder: (folder / _SINGLE).mkdir(), "refuses"),
    "empty": (_bytes(b""), "refuses"),
    "text": (_bytes(b"hello, world\n"), "refuses"),
    "plain pickle": (_bytes(pickle.dumps({"a": 1})), "refuses"),
    "half a pickle": (_bytes(pickle.dumps({"a": [1, 2, 3]})[:9]), "refuses"),
    "safetensors": (_bytes(b"\x02\0\0\0\0\0\0\0{}"), "refuses"),
    "bare zip": (_bytes(b"PK\x05\x06" + bytes(18)), "refuses"),
    "TorchScript": (_script, "refuses"),
    "a list": (_saved([torch.ones(2)]), "type list"),
    "one tensor": (_saved(torch.ones(2)), "type Tensor"),
    "a number": (_saved({"a": torch.ones(2), "step": 3}), "'step'"),
    "no tensors inside": (_saved({"state_dict": {"a": torch.ones(1), "b": 2}}), "'state_dict'"),
    "a whole model": (_saved(torch.nn.Linear(2, 2)), "refuses"),
    "numbered names": (_saved({0: torch.ones(2)}), "must be text"),
    "complex": (_saved({"a": torch.ones(2, dtype=torch.complex64)}), "complex64"),
    "sparse": (_saved({"a": torch.eye(3).to_sparse()}), "sparse"),
    "without values": (_saved({"a": torch.empty(3, device="meta")}), "meta"),
    "stretched": (_saved({"a": torch.ones(1).expand(10**9, 10**6)}), "more bytes"),
    "index not JSON": (_index("{"), "JSON"),
    "index not UTF-8 text": (_index("\ud800".encode("utf-8", "replace").decode()), "JSON"),
    "index a list": (_index([1]), "object"),
    "index without map": (_index({}), "weight_map"),
    "index with empty map": (_index({"weight_map": {}}), "weight_map"),
    "index with a number": (_index({"weight_map": {"a": 3}}), "inside of"),
    "index upwards": (_index({"weight_map": {"a": f"../{_shard(1)}"}}), "inside of"),
    "index upwards later": (_index({"weight_map": {"a": f"x/../../{_shard(1)}"}}), "inside of"),
    "index absolute": (_index({"weight_map": {"a": "/etc/passwd"}}), "inside of"),
    "index of Windows": (_index({"weight_map": {"a": "..\\x.bin"}}), "inside of"),
    "index with a drive": (_index({"weight_map": {"a": "C:x.bin"}}), "inside of"),
    "index with no name": (_index({"weight_map": {"a": ""}}), "inside of"),
    "index with a null": (_index({"weight_map": {"a": "x\0.bin"}}), "inside of"),
    "shard of index missing": (_index({"weight_map": {"a": _shard(1)}}), "missing"),
    "tensor of index missing": (
        _index({"weight_map": {"a": _shard(1), "b": _shard(1)}}, _shard(1)),
        "'b'",
    ),
    "shard missing": (lambda folder: torch.save(_WEIGHTS, folder / _shard(2, 3)), "1 of 3"),
    "two sets of shards": (_two_sets, "00002 and of 00003"),
    "one name twice": (_same_name, "'a'"),
}


@pytest.mark.parametrize("case", _MALFORMED)
def test_malformed_files_are_refused(case: str, tmp_path: Path) -> None:
    write, words = _MALFORMED[case]
    write(tmp_path)
    with pytest.raises(FormatError, match=words) as caught:
        BinCheckpoint(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("percent", [1, 10, 30, 50, 70, 90, 99])
def test_truncated_files_are_refused(percent: int, zipped: bool, tmp_path: Path) -> None:
    file = tmp_path / _SINGLE
    torch.save({"a": torch.ones(500)}, file, _use_new_zipfile_serialization=zipped)
    file.write_bytes(file.read_bytes()[: file.stat().st_size * percent // 100])
    with pytest.raises(FormatError, match=_SINGLE):
        BinCheckpoint(tmp_path)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("seed", range(20))
def test_flipped_bits_never_end_in_a_traceback(seed: int, zipped: bool, tmp_path: Path) -> None:
    file = tmp_path / _SINGLE
    torch.save(_values(), file, _use_new_zipfile_serialization=zipped)
    content = bytearray(file.read_bytes())
    dice = random.Random(seed)
    for _ in range(8):
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    file.write_bytes(content)
    # flips among the values alone cannot be told; what is read is still inside the file
    with contextlib.suppress(FormatError):
        checkpoint = BinCheckpoint(tmp_path)
        for name in checkpoint.tensors:
            assert _all(checkpoint, name).shape == checkpoint.tensors[name].shape


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no such file"):
        read_bin(tmp_path / "absent.bin")
