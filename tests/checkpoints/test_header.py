"""Headers of safetensors files: what is read, what is written, and that both agree."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cermet.checkpoints.dtypes import FLOATS, NAMES, SIZES, TORCH, dtype_named
from cermet.checkpoints.header import encode_header, read_header
from cermet.core.errors import FormatError, InputError


@pytest.mark.parametrize("dtype", TORCH.values(), ids=str)
def test_every_dtype_is_read_where_the_library_wrote_it(dtype: torch.dtype, tmp_path: Path) -> None:
    tensor = torch.arange(12).reshape(3, 4).to(dtype)
    file = tmp_path / "x.safetensors"
    save_file({"first": torch.ones(5), "x": tensor}, file, metadata={"note": "kept"})
    info = read_header(file)["x"]
    assert (info.dtype, info.shape, info.numel, info.nbytes) == (
        NAMES[dtype], (3, 4), 12, 12 * dtype.itemsize,
    )  # fmt: skip
    raw = file.read_bytes()[info.begin : info.begin + info.nbytes]
    assert raw == tensor.contiguous().view(torch.uint8).numpy().tobytes()


def test_scalars_and_empty_tensors_have_headers(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    save_file({"scalar": torch.tensor(2.5), "empty": torch.empty(0, 4)}, file)
    found = read_header(file)
    assert (found["scalar"].shape, found["scalar"].numel) == ((), 1)
    assert (found["empty"].shape, found["empty"].nbytes) == ((0, 4), 0)


def test_tensors_come_in_the_order_of_their_data(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    save_file({name: torch.ones(3) for name in "cab"}, file)
    begins = [info.begin for info in read_header(file).values()]
    assert begins == sorted(begins)


def test_the_library_reads_the_headers_that_are_written(tmp_path: Path) -> None:
    tensors = {"b": torch.randn(3, 5), "a": torch.randn(7).bfloat16(), "é": torch.arange(4)}
    slots = {n: (NAMES[t.dtype], tuple(t.shape), t.nbytes) for n, t in tensors.items()}
    data = b"".join(t.view(torch.uint8).numpy().tobytes() for t in tensors.values())
    file = tmp_path / "x.safetensors"
    file.write_bytes(encode_header(slots) + data)
    found = load_file(file)
    assert all(torch.equal(found[n], t) for n, t in tensors.items())
    with safe_open(file, "pt") as opened:
        assert opened.metadata() == {"format": "pt"}  # transformers refuses files without it


@pytest.mark.parametrize("count", range(9))
def test_data_begins_at_a_multiple_of_8(count: int) -> None:
    header = encode_header({"n" * count: ("F32", (1,), 4)})
    length = int.from_bytes(header[:8], "little")
    assert len(header) == 8 + length
    assert len(header) % 8 == 0
    assert json.loads(header[8:])["n" * count]["data_offsets"] == [0, 4]


def test_a_dtype_that_is_not_read_is_refused_with_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    save_file({"x": torch.ones(4, dtype=torch.complex64)}, file)
    with pytest.raises(FormatError, match=r"'x' has the dtype C64.*must be dequantised first"):
        read_header(file)


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("float32", "F32"),
        ("fp32", "F32"),
        ("float16", "F16"),
        ("half", "F16"),
        ("bf16", "BF16"),
        ("torch.bfloat16", "BF16"),
        ("float64", "F64"),
    ],
)
def test_dtypes_as_recipes_spell_them(word: str, meant: str) -> None:
    assert dtype_named(word) == meant
    assert meant in FLOATS
    assert SIZES[meant] == TORCH[meant].itemsize


@pytest.mark.parametrize("word", ["int8", "Float32", "float8", ""])
def test_other_words_are_no_dtypes(word: str) -> None:
    with pytest.raises(InputError, match=f"'{word}' is not a dtype of weights. Known: float64"):
        dtype_named(word)
