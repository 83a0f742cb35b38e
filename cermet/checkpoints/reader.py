"""Reading checkpoints: slices of tensors out of mapped files, without copies."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from cermet.checkpoints.dtypes import STORED, STORED_SIZES
from cermet.checkpoints.formats import foreign_format
from cermet.checkpoints.header import TensorInfo, read_header, read_json
from cermet.core.errors import FormatError, InputError

__all__ = [
    "DELTA",
    "Checkpoint",
    "MemoryCheckpoint",
    "TensorInfo",
    "open_checkpoint",
    "open_parts",
    "read_config",
]

_INDEX = "model.safetensors.index.json"
DELTA = "delta.json"  # the manifest of a delta archive, which is no model
_BITS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}  # by bytes of an element
LONGEST_NAME = 255  # bytes, of a file


class Checkpoint(Protocol):
    """Named tensors with a config, wherever they are.

    Attributes
    ----------
    path: as the user wrote it.
    config: what config.json holds; empty where there is none.
    tensors: every tensor by name.
    exact: whether `block` returns stored bytes, the same on every machine.
    adapter: files that change what `block` returns beside those that hold the tensors.
    """

    @property
    def path(self) -> str: ...
    @property
    def config(self) -> Mapping[str, Any]: ...
    @property
    def tensors(self) -> Mapping[str, TensorInfo]: ...
    @property
    def exact(self) -> bool: ...
    @property
    def adapter(self) -> tuple[Path, ...]: ...

    def block(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Flat elements [start, stop) of a row-major tensor, 1-D, in the stored dtype."""


class SafetensorsCheckpoint:
    """One or many safetensors files, memory-mapped."""

    exact = True
    adapter = ()

    def __init__(
        self, path: str, config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]
    ) -> None:
        self.path = path
        self.config = config
        self.tensors = tensors
        self._files = {f: _File(f) for f in sorted({t.file for t in tensors.values()})}

    def block(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Flat elements [start, stop) of a tensor, as a view of the file."""
        info = self.tensors[name]
        dtype = STORED[info.dtype]
        if stop <= start:
            return torch.empty(0, dtype=dtype)
        offset = info.begin + start * dtype.itemsize
        mapped = self._files[info.file].mapped
        return torch.frombuffer(mapped, dtype=dtype, count=stop - start, offset=offset)

    def raw(self, name: str, start: int, stop: int) -> npt.NDArray[np.unsignedinteger[Any]]:
        """The bits of flat elements [start, stop) of a tensor, in memory of their own.

        For what is gone through once, block by block, in the same little memory: measured, a
        mapping costs nearly twice as much, for each of its pages is a fault of its own.
        """
        info = self.tensors[name]
        size = STORED_SIZES[info.dtype]
        found = self._files[info.file].read(info.begin + start * size, (stop - start) * size)
        return found.view(_BITS[size])

    def place(self, name: str, start: int) -> tuple[int, int, str]:
        """Where a flat element of a tensor stands: an open file, a byte in it, the file's name."""
        info = self.tensors[name]
        file = self._files[info.file]
        return file.handle, info.begin + start * STORED_SIZES[info.dtype], str(info.file)


class _File:
    """A file that is read by position, and mapped; closed when nothing refers to it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.handle = -1
        try:
            self.handle, self.mapped = _opened(path)
        except OSError as error:
            if error.errno != errno.EMFILE or not _more_files():
                raise
            self.handle, self.mapped = _opened(path)

    def read(self, offset: int, count: int) -> npt.NDArray[np.uint8]:
        """Bytes [offset, offset + count)."""
        if not hasattr(os, "preadv"):
            return np.frombuffer(self.mapped, np.uint8, count, offset)
        found = np.empty(count, np.uint8)
        left = found.data
        while left:
            try:
                got = os.preadv(self.handle, [left], offset)
            except OSError as error:
                raise InputError(f"'{self._path}' cannot be read: {error.strerror}.") from error
            if not got:
                raise FormatError(f"'{self._path}' has become shorter while it was read.")
            left, offset = left[got:], offset + got
        return found

    def __del__(self) -> None:
        if self.handle >= 0:
            os.close(self.handle)


def _opened(path: Path) -> tuple[int, mmap.mmap]:
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        # A private mapping: torch wants memory that could be written, and what is never
        # written is never copied.
        return handle, mmap.mmap(handle, 0, access=mmap.ACCESS_COPY)
    except OSError:
        os.close(handle)
        raise


def _more_files() -> bool:
    """Let this process open as many files as it may; whether that is more than before."""
    try:
        import resource
    except ImportError:  # Windows
        return False
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and (hard == resource.RLIM_INFINITY or soft < hard):
        most = 1 << 20 if hard == resource.RLIM_INFINITY else hard
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        return most > soft
    return False


class MemoryCheckpoint:
    """Tensors that are in memory already."""

    exact = True
    adapter = ()

    def __init__(self, path: str, tensors: Mapping[str, torch.Tensor]) -> None:
        from cermet.checkpoints.dtypes import NAMES

        self.path = path
        self.config: Mapping[str, Any] = {}
        for name, tensor in tensors.items():
            if tensor.dtype not in NAMES:
                raise FormatError(
                    f"Tensor '{name}' of {path} is {tensor.dtype}, which Cermet cannot merge."
                )
        self._tensors = {name: t.detach().contiguous() for name, t in tensors.items()}
        self.tensors: Mapping[str, TensorInfo] = {
            name: TensorInfo(name, NAMES[t.dtype], tuple(t.shape), Path(path), 0, t.nbytes)
            for name, t in self._tensors.items()
        }

    def block(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Flat elements [start, stop) of a tensor, as a view."""
        return self._tensors[name].reshape(-1)[start:stop]


def read_config(folder: Path) -> dict[str, Any]:
    """What config.json of a folder holds; empty where there is none."""
    path = folder / "config.json"
    return read_json(path, "the config") if path.exists() else {}


def open_checkpoint(path: Path, name: str | None = None) -> Checkpoint:
    """Open a folder (safetensors, sharded or not, or PyTorch .bin) or one file of either kind.

    `name` is what messages call it; the path by default. Raises InputError where there is
    nothing, FormatError where it is damaged.
    """
    label = name or str(path)
    if path.is_file() and path.suffix == ".safetensors":
        return SafetensorsCheckpoint(label, read_config(path.parent), read_header(path))
    if path.is_file() and path.suffix == ".bin":
        from cermet.checkpoints.bins import BinCheckpoint

        return BinCheckpoint(path, label)
    if not path.is_dir():
        told = foreign_format(path)
        known = f": it is {told}" if told else ""
        raise InputError(f"'{label}' is neither a folder nor a .safetensors or .bin file{known}.")
    if (path / DELTA).is_file():
        raise InputError(
            f"'{label}' is a delta archive, not a model; restore the model from it first, with "
            "`cermet restore`."
        )
    config = read_config(path)
    if (path / _INDEX).is_file():
        return SafetensorsCheckpoint(label, config, _sharded(path / _INDEX))
    files = sorted(path.glob("*.safetensors"))
    if files:
        single = path / "model.safetensors"
        chosen = [single] if single in files else _only_models(files)
        return SafetensorsCheckpoint(label, config, _joined(chosen))
    if any(path.glob("pytorch_model*.bin")):
        from cermet.checkpoints.bins import BinCheckpoint

        return BinCheckpoint(path, label)
    told = foreign_format(path)
    known = f" It holds {told}." if told else ""
    raise InputError(
        f"'{label}' holds no weights: neither *.safetensors nor pytorch_model*.bin.{known}"
    )


def open_parts(folder: Path, stem: str) -> Checkpoint:
    """Open what stands beside the weights of a folder, in files whose names begin with `stem`.

    Raises InputError where there is nothing, FormatError where it is damaged.
    """
    index, single = (folder / f"{stem}.safetensors{end}" for end in (".index.json", ""))
    if index.is_file():
        return SafetensorsCheckpoint(str(index), {}, _sharded(index))
    if not single.is_file():
        raise InputError(f"'{folder}' holds no {single.name}.")
    return SafetensorsCheckpoint(str(single), {}, read_header(single))


def _only_models(files: list[Path]) -> list[Path]:
    """Without the adapters, and the weights in another form, that a folder may hold besides."""
    return [f for f in files if not f.name.startswith(("adapter_", "consolidated"))] or files


def _joined(files: list[Path]) -> dict[str, TensorInfo]:
    found: dict[str, TensorInfo] = {}
    for file in files:
        for name, info in read_header(file).items():
            if name in found:
                raise FormatError(
                    f"Tensor '{name}' stands in '{found[name].file}' and in '{file}'."
                )
            found[name] = info
    return found


def _inside(shard: str) -> bool:
    """Whether a shard's name is that of a file in its folder, on every system."""
    plain = shard.isprintable() and not any(sign in shard for sign in "/\\:")
    return plain and shard not in ("", ".", "..") and len(shard.encode()) <= LONGEST_NAME


def _sharded(index: Path) -> dict[str, TensorInfo]:
    """The tensors that an index lists, each found in the shard that it names."""
    folder = index.parent
    weight_map = read_json(index, "the index").get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise FormatError(f"'{index}' has no weight_map.")
    headers: dict[str, dict[str, TensorInfo]] = {}
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or not _inside(shard):
            raise FormatError(f"'{index}' places tensor '{name}' in '{shard}', outside its folder.")
        if shard not in headers:
            if not (folder / shard).is_file():
                raise FormatError(f"'{index}' lists the shard '{shard}', which is missing.")
            headers[shard] = read_header(folder / shard)
        if name not in headers[shard]:
            raise FormatError(f"'{index}' places tensor '{name}' in '{shard}', which lacks it.")
    for shard, header in headers.items():
        for name in header:
            if weight_map.get(name) != shard:
                raise FormatError(f"'{folder / shard}' holds tensor '{name}', not in the index.")
    return {name: headers[shard][name] for name, shard in weight_map.items()}
