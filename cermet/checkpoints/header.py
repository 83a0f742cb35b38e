"""The header of a safetensors file, checked before anything in it is believed."""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cermet.checkpoints.dtypes import STORED_SIZES
from cermet.core.errors import FormatError

__all__ = ["TensorInfo", "encode_header", "read_header", "read_json"]

_LENGTH_BYTES = 8
_LARGEST = 100_000_000  # bytes; the format's own limit
_METADATA = "__metadata__"
_MOST_PARTS = 4_000_000  # values and names of a JSON text; each takes some 50 bytes in memory
_LONGEST = 10_000_000  # bytes of one text inside of it
_DEEPEST = 64
_MOST_DIMENSIONS = 64  # as many as torch takes
_TOO_MANY = 1 << 63  # elements, or bytes: beyond what an offset can say
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")  # half of a character: text that no file can hold


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
            raise ValueError(f"the key {_brief(repr(key))} stands twice")
        found[key] = value
    return found


def read_json(path: Path, what: str) -> dict[str, Any]:
    """The JSON object in a file; FormatError where it is anything else, or far too large."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise FormatError(f"'{path}' is not a file.")
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise FormatError(f"'{path}' cannot be read: {error.strerror or error}.") from error
    if len(data) > _LARGEST:
        raise FormatError(f"'{path}': {what} is larger than 100 MB.")
    return _strict_json(data, path, what)


def _strict_json(data: bytes, path: Path, what: str) -> dict[str, Any]:
    """A JSON object; FormatError where it is anything else, or where a key stands twice."""
    try:
        _check_size(data)
        found = json.loads(data.decode("utf-8"), object_pairs_hook=_no_repeats)
        _check_depth(found)
        if _HALF.search(data):
            json.dumps(found, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise FormatError(f"'{path}': {what} is not valid JSON ({_brief(error)}).") from error
    if not isinstance(found, dict):
        raise FormatError(f"'{path}': {what} is not a JSON object.")
    return found


def _check_size(data: bytes) -> None:
    """Refuse what would take far more memory than its bytes, before it is parsed."""
    if sum(map(data.count, b',[{"')) > _MOST_PARTS:
        raise ValueError(f"it has more than {_MOST_PARTS:,} parts")
    if len(data) > _LONGEST and max(map(len, data.split(b'"'))) > _LONGEST:
        raise ValueError(f"it holds a text of more than {_LONGEST:,} bytes")


def _check_depth(found: Any) -> None:
    level = [found]
    for _ in range(_DEEPEST + 1):
        nested = [part for part in level if isinstance(part, dict | list)]
        level = [v for part in nested for v in (part.values() if isinstance(part, dict) else part)]
    if level:
        raise ValueError(f"it is nested more than {_DEEPEST} deep")


def _brief(value: object) -> str:
    """A value for a message, cut where it is long."""
    text = str(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of a safetensors file by name, in the order of their data.

    Raises FormatError, naming file and tensor, for a length, an offset, a shape or a dtype
    that cannot be true, and for data that overlaps, has holes, or is missing.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
            raise FormatError(f"'{path}' is not a file.")
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
    header = _strict_json(raw, path, "the header")
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
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _TOO_MANY


def _tensor(path: Path, name: str, entry: Any, data: int) -> TensorInfo:
    where = f"'{path}': tensor '{_brief(name)}'"
    if not name.isprintable():
        raise FormatError(f"'{path}': a tensor is called {_brief(ascii(name))}, which is no name.")
    if not isinstance(entry, Mapping):
        raise FormatError(f"{where} has no description.")
    dtype, shape, offsets = (entry.get(k) for k in ("dtype", "shape", "data_offsets"))
    if not isinstance(shape, list) or not all(map(_whole, shape)):
        raise FormatError(f"{where} has the shape {_brief(shape)}, which is not a list of sizes.")
    if len(shape) > _MOST_DIMENSIONS or math.prod(max(1, n) for n in shape) >= _TOO_MANY:
        raise FormatError(f"{where} has the shape {_brief(shape)}, too large to be true.")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_whole, offsets)):
        raise FormatError(f"{where} has the offsets {_brief(offsets)}, not two positions.")
    if not isinstance(dtype, str) or dtype not in STORED_SIZES:
        raise FormatError(
            f"{where} has the dtype {_brief(dtype)}, which Cermet does not read (it reads "
            f"{', '.join(STORED_SIZES)}; quantised checkpoints must be dequantised first)."
        )
    begin, end = offsets
    expected = math.prod(shape) * STORED_SIZES[dtype]
    if end - begin != expected:
        raise FormatError(
            f"{where} has {end - begin:,} bytes; {dtype} of {_brief(shape)} takes {expected:,}."
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
