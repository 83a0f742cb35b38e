"""The header of a safetensors file, checked before anything in it is believed."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cermet.checkpoints.dtypes import SIZES
from cermet.core.errors import FormatError

__all__ = ["TensorInfo", "encode_header", "read_header", "strict_json"]

_LENGTH_BYTES = 8
_LARGEST = 100_000_000  # bytes; the format's own limit
_METADATA = "__metadata__"


class TensorInfo(NamedTuple):
    """Where one tensor lies on disk.

    dtype is spelled as in safetensors; begin is the byte offset in the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    begin: int
    nbytes: int

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key '{key}' stands twice")
        found[key] = value
    return found


def strict_json(data: bytes, path: Path, what: str) -> dict[str, Any]:
    """A JSON object; FormatError where it is anything else, or where a key stands twice."""
    try:
        found = json.loads(data.decode("utf-8"), object_pairs_hook=_no_repeats)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"'{path}': {what} is not valid JSON ({error}).") from error
    if not isinstance(found, dict):
        raise FormatError(f"'{path}': {what} is not a JSON object.")
    return found


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of a safetensors file by name, in the order of their data.

    Raises FormatError, naming file and tensor, for a length, an offset, a shape or a dtype
    that cannot be true, and for data that overlaps, has holes, or is missing.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(_LENGTH_BYTES)
            length = int.from_bytes(start, "little")
            if len(start) < _LENGTH_BYTES or length + _LENGTH_BYTES > size:
                raise FormatError(
                    f"'{path}' is cut short or not a safetensors file: its header would end at "
                    f"byte {length + _LENGTH_BYTES:,}, the file ends at byte {size:,}."
                )
            if length > _LARGEST:
                raise FormatError(f"'{path}': a header of {length:,} bytes (at most 100,000,000).")
            raw = file.read(length)
    except OSError as error:
        raise FormatError(f"'{path}' cannot be read: {error.strerror or error}.") from error
    if not raw.startswith(b"{"):
        raise FormatError(f"'{path}' is not a safetensors file: its header is not JSON.")
    header = strict_json(raw, path, "the header")
    _check_metadata(header.pop(_METADATA, {}), path)
    data = _LENGTH_BYTES + length
    tensors = [_tensor(path, name, entry, data) for name, entry in header.items()]
    tensors.sort(key=lambda t: (t.begin, t.begin + t.nbytes))
    position = data
    for tensor in tensors:
        if tensor.begin != position:
            kind = "overlaps the one before it" if tensor.begin < position else "leaves a gap"
            raise FormatError(f"'{path}': the data of tensor '{tensor.name}' {kind}.")
        position += tensor.nbytes
    if position != size:
        raise FormatError(
            f"'{path}': its tensors end at byte {position:,}, the file at byte {size:,}; "
            "it was cut short or added to."
        )
    return {tensor.name: tensor for tensor in tensors}


def _check_metadata(found: Any, path: Path) -> None:
    fine = isinstance(found, dict) and all(isinstance(v, str) for v in found.values())
    if not fine:
        raise FormatError(f"'{path}': the header's metadata is not a map of strings.")


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _tensor(path: Path, name: str, entry: Any, data: int) -> TensorInfo:
    where = f"'{path}': tensor '{name}'"
    if not isinstance(entry, Mapping):
        raise FormatError(f"{where} has no description.")
    dtype, shape, offsets = (entry.get(k) for k in ("dtype", "shape", "data_offsets"))
    if not isinstance(shape, list) or not all(map(_whole, shape)):
        raise FormatError(f"{where} has the shape {shape}, which is not a list of sizes.")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_whole, offsets)):
        raise FormatError(f"{where} has the offsets {offsets}, which are not two positions.")
    if not isinstance(dtype, str) or dtype not in SIZES:
        raise FormatError(
            f"{where} has the dtype {dtype}, which Cermet does not read "
            f"(it reads {', '.join(SIZES)}; quantised checkpoints must be dequantised first)."
        )
    begin, end = offsets
    expected = math.prod(shape) * SIZES[dtype]
    if end - begin != expected:
        raise FormatError(
            f"{where} has {end - begin:,} bytes; {dtype} of shape {shape} takes {expected:,}."
        )
    return TensorInfo(name, dtype, tuple(shape), path, data + begin, expected)


def encode_header(tensors: Mapping[str, tuple[str, tuple[int, ...], int]]) -> bytes:
    """The header for tensors that follow each other: name -> dtype, shape, bytes."""
    entries: dict[str, Any] = {_METADATA: {"format": "pt"}}
    position = 0
    for name, (dtype, shape, nbytes) in tensors.items():
        offsets = [position, position + nbytes]
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": offsets}
        position += nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text
