"""Writing safetensors shards whose layout, names, sizes and headers are fixed beforehand."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cermet.checkpoints.dtypes import SIZES, TORCH
from cermet.checkpoints.header import encode_header
from cermet.core.errors import DiskError

__all__ = ["Layout", "Shard", "ShardWriter", "Slot", "layout"]

_SLICE = 1 << 17  # bytes of one write: longer ones keep other threads from the file, and take
# the kernel longer, which then looks for larger runs of free memory
_WORTH = 1 << 18  # bytes of a block that the disk is to begin with at once
_HURRY = 128 << 20  # bytes of smaller blocks after which it is to begin with all that waits


@dataclass(frozen=True, slots=True)
class Slot:
    """One tensor to be written."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True, slots=True)
class Shard:
    """One file to be written: its header and where each tensor's data begins."""

    file: str
    header: bytes
    size: int
    begins: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Layout:
    """Every file of a checkpoint to be written, and the index where there are several."""

    shards: tuple[Shard, ...]
    slots: Mapping[str, Slot]
    index: bytes | None
    stem: str = "model"

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(s.size for s in self.shards) + len(self.index or b"")

    def shard_of(self, name: str) -> str:
        """The file that holds a tensor."""
        return next(s.file for s in self.shards if name in s.begins)

    def present(self, folder: Path) -> bool:
        """Whether a folder holds every file at its final size."""
        paths = [(folder / s.file, s.size) for s in self.shards]
        return all(p.is_file() and p.stat().st_size == size for p, size in paths)


def layout(slots: Sequence[Slot], shard_size: int, stem: str = "model") -> Layout:
    """Divide tensors, in order, over files of at most `shard_size` bytes of data each.

    A tensor larger than that has a file of its own. Names of files begin with `stem`.
    """
    groups: list[list[Slot]] = [[]]
    filled = 0
    for slot in slots:
        if groups[-1] and filled + slot.nbytes > shard_size:
            groups.append([])
            filled = 0
        groups[-1].append(slot)
        filled += slot.nbytes
    shards = []
    for number, group in enumerate(groups, start=1):
        one = len(groups) == 1
        place = "" if one else f"-{number:05d}-of-{len(groups):05d}"
        file = f"{stem}{place}.safetensors"
        header = encode_header({s.name: (s.dtype, s.shape, s.nbytes) for s in group})
        begins, position = {}, len(header)
        for slot in group:
            begins[slot.name] = position
            position += slot.nbytes
        shards.append(Shard(file, header, position, begins))
    index = None
    if len(shards) > 1:
        weight_map = {name: shard.file for shard in shards for name in shard.begins}
        total = sum(s.nbytes for s in slots)
        index = json.dumps(
            {"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2
        ).encode()
    return Layout(tuple(shards), {s.name: s for s in slots}, index, stem)


class ShardWriter:
    """The shards of a layout as files of their final size.

    Space is reserved before the first byte, so a full disk is an error here and not a
    fault in the middle. With `resume`, files that exist at their final size are kept.
    Blocks are written, not stored through a mapping: a page that is touched first through a
    mapping costs the kernel several times what writing it does.
    """

    def __init__(self, folder: Path, plan: Layout, *, resume: bool = False) -> None:
        self.folder, self.plan = folder, plan
        self._files: dict[str, int] = {}
        self._maps: dict[str, mmap.mmap] = {}
        self._unsent = 0
        self._where = {name: shard for shard in plan.shards for name in shard.begins}
        for shard in plan.shards:
            self._open(shard, resume)
        if plan.index is not None:
            (folder / f"{plan.stem}.safetensors.index.json").write_bytes(plan.index)

    def _open(self, shard: Shard, resume: bool) -> None:
        path = self.folder / shard.file
        kept = resume and path.is_file() and path.stat().st_size == shard.size
        try:
            flags = os.O_RDWR | os.O_CREAT | (0 if kept else os.O_TRUNC)
            file = self._files[shard.file] = os.open(path, flags, 0o666)
            if not kept:
                reserve(file, shard.size)
            mapped = self._maps[shard.file] = mmap.mmap(file, shard.size)
        except OSError as error:
            self.close()
            raise DiskError(
                f"'{path}' ({shard.size / 1e9:.2f} GB) cannot be created: "
                f"{error.strerror or error}."
            ) from error
        mapped[: len(shard.header)] = shard.header

    def dtype(self, name: str) -> torch.dtype:
        """The dtype of a tensor."""
        return TORCH[self.plan.slots[name].dtype]

    def put(self, name: str, start: int, block: torch.Tensor | npt.NDArray[Any]) -> None:
        """Write a 1-D block of the tensor's dtype from flat element `start` on.

        Of what NumPy holds the bytes are taken, whatever it takes them for.
        """
        if not isinstance(block, np.ndarray):
            block = block.contiguous().view(torch.uint8).numpy()
        data = block.view(np.uint8).data
        file, offset, _ = self.place(name, start)
        while data:
            written = os.pwrite(file, data[:_SLICE], offset)
            data, offset = data[written:], offset + written
        self.wrote(name, start, block.nbytes)

    def place(self, name: str, start: int) -> tuple[int, int, str]:
        """Where a flat element of a tensor goes: an open file, a byte in it, the file's name."""
        shard = self._where[name]
        offset = shard.begins[name] + start * SIZES[self.plan.slots[name].dtype]
        return self._files[shard.file], offset, shard.file

    def wrote(self, name: str, start: int, nbytes: int) -> None:
        """So many bytes from flat element `start` on are written: the disk may begin with them."""
        file, begin, _ = self.place(name, start)
        if nbytes >= _WORTH:
            send(file, begin, nbytes)
            return
        self._unsent += nbytes  # threads may lose a count: it only says when to hurry
        if self._unsent >= _HURRY:
            self._unsent = 0
            send(file)

    def view(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Flat elements [start, stop) of a tensor, mapped."""
        slot, shard = self.plan.slots[name], self._where[name]
        dtype = TORCH[slot.dtype]
        if stop <= start:
            return torch.empty(0, dtype=dtype)
        offset = shard.begins[name] + start * SIZES[slot.dtype]
        return torch.frombuffer(
            self._maps[shard.file], dtype=dtype, count=stop - start, offset=offset
        )

    def sync(self) -> None:
        """Wait until everything written is on the disk."""
        for name, file in self._files.items():
            try:
                os.fsync(file)
            except OSError as error:
                raise DiskError(f"'{self.folder / name}': {error.strerror}.") from error

    def close(self) -> None:
        """Let go of the files."""
        while self._files:
            os.close(self._files.popitem()[1])


@cache
def _sync_file_range() -> Callable[..., int] | None:
    """The C library's function (Linux only)."""
    if sys.platform != "linux":
        return None
    found: Callable[..., int] | None = getattr(ctypes.CDLL(None), "sync_file_range", None)
    return found


def send(descriptor: int, offset: int = 0, count: int = 0) -> None:
    """Ask the kernel to begin writing bytes of a file to the disk, or all, without waiting."""
    begin = _sync_file_range()
    if begin is not None:
        part = ctypes.c_int64(offset), ctypes.c_int64(count)
        begin(ctypes.c_int(descriptor), *part, ctypes.c_uint(2))


def reserve(descriptor: int, size: int) -> None:
    """Give a new file its final size, with its space on the disk where that can be asked for."""
    fallocate = getattr(os, "posix_fallocate", None)
    if fallocate is not None and size:
        fallocate(descriptor, 0, size)
    else:
        os.ftruncate(descriptor, size)
