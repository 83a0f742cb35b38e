"""Encoding one tensor of an expert against its base: run by run, or whole where the codec asks."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cermet.checkpoints.dtypes import FLOATS, NAMES, TORCH
from cermet.checkpoints.quantised import repeatable
from cermet.core.codec import CHUNK, Codec
from cermet.core.errors import BudgetError, CermetError, DataError, MethodError, NonFiniteError
from cermet.core.fingerprint import digest_bytes
from cermet.core.noise import RESOLUTION, Stream
from cermet.core.registry import call
from cermet.core.types import Place, Role
from cermet.engine.archive import How
from cermet.engine.blocks import Input
from cermet.engine.finite import FAR, refuse_non_finite
from cermet.engine.job import Piece
from cermet.engine.restore import Digests
from cermet.maths.select import Cutoff

__all__ = ["Chunk", "EncodeJob", "Spool", "chunks", "uniform"]

WHOLE = "whole"
"""The one part of a tensor of which the expert's own bytes are kept."""


def chunks(numel: int) -> list[tuple[int, int]]:
    """The runs of a tensor that are encoded one by one: [start, stop)."""
    return [(start, min(start + CHUNK, numel)) for start in range(0, numel, CHUNK)]


def uniform(seed: int, tensor: str, start: int, stop: int) -> torch.Tensor:
    """Random numbers in [0, 1) for a run of a tensor: those of a merge's first expert."""
    drawn = Stream(seed, tensor, 0).draw(start, stop).view(np.int16)
    uniform = torch.from_numpy(drawn).to(torch.float32)
    return uniform.add_(RESOLUTION // 2).mul_(1.0 / RESOLUTION)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of one run, or of a whole tensor: where it lies in the spool, and its elements."""

    offset: int
    count: int


class Spool:
    """A file that takes parts in the order in which they are finished.

    How long a part is may depend on the numbers, so the files of the archive are laid out when
    all parts are there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        self._end = 0
        self._lock = threading.Lock()

    def put(self, part: torch.Tensor) -> Chunk:
        """Append a part."""
        data = part.contiguous().reshape(-1).view(torch.uint8).numpy().data
        with self._lock:
            offset, self._end = self._end, self._end + len(data)
        at = offset
        while data:
            written = os.pwrite(self._file, data, at)
            data, at = data[written:], at + written
        return Chunk(offset, part.numel())

    def get(self, chunk: Chunk, dtype: torch.dtype) -> torch.Tensor:
        """A part that was put, flat."""
        data = bytearray(chunk.count * dtype.itemsize)
        if not data:
            return torch.empty(0, dtype=dtype)
        view, at = memoryview(data), chunk.offset
        while view:
            read = os.preadv(self._file, [view], at)
            view, at = view[read:], at + read
        return torch.frombuffer(data, dtype=dtype)

    def close(self) -> None:
        """Remove the file."""
        os.close(self._file)
        self.path.unlink(missing_ok=True)


@dataclass
class _Sums:
    """Squares of a tensor's delta and of what is wrong after restoring, run by run."""

    delta: dict[int, float] = field(default_factory=dict)
    error: dict[int, float] = field(default_factory=dict)


class EncodeJob:
    """One tensor: its parts in the spool, digests of what was read, and how far it is off.

    Attributes
    ----------
    how: what is kept; decided when all has been read. parts: name -> its chunks, in order.
    dtypes, shapes: of the parts. delta, error: sums of squares.

    The codec encodes on `device`. Its parts are decoded on the CPU, as they will be to restore.
    """

    together = False

    def __init__(
        self,
        place: Place,
        codec: Codec,
        how: How,
        expert: Input,
        base: Input,
        known: Mapping[str, Any],
        numbers: Mapping[str, float],
        spool: Spool,
        *,
        dtype: str,
        seed: int,
        device: str = "cpu",
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self.name, self.place, self.codec, self.how = place.name, place, codec, how
        self.expert, self.base, self.spool, self.seed = expert, base, spool, seed
        self.known = {**known, "place": place, "dtype": TORCH[dtype]}
        self.numbers = dict(numbers)
        self.dtype, self.device, self.progress = dtype, device, progress
        self.digests = Digests()
        self.parts: dict[str, dict[int, Chunk]] = {}
        self.dtypes: dict[str, str] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.delta = self.error = 0.0
        self._sums, self._lock = _Sums(), threading.Lock()
        self._differs = False

    @property
    def numel(self) -> int:
        """Elements of the tensor."""
        return math.prod(self.place.shape)

    @property
    def chunked(self) -> bool:
        """Whether its parts are cut as its runs are."""
        return self.how == "coded" and self.codec.grain == "element"

    @property
    def nbytes(self) -> int:
        """Bytes of its parts."""
        return sum(
            chunk.count * TORCH[self.dtypes[name]].itemsize
            for name, held in self.parts.items()
            for chunk in held.values()
        )

    def stages(self) -> Iterator[list[Piece]]:
        """Encoding; then, where that has made it no smaller, the expert's own bytes instead."""
        if self.how == "coded" and self.codec.grain == "tensor":
            yield [self._whole]
        else:
            yield [self._piece(self._run, *run) for run in chunks(self.numel)]
        if not self._differs:
            self._forget("same")
        elif self.how == "coded" and not self.codec.adapter and self.nbytes >= self._raw_bytes():
            self._forget("expert")
            yield [self._piece(self._keep, *run) for run in chunks(self.numel)]
        elif self.how == "coded" and not self.parts:
            self.how = "base"
        self.delta = sum(self._sums.delta[start] for start in sorted(self._sums.delta))
        self.error = sum(self._sums.error[start] for start in sorted(self._sums.error))

    def _raw_bytes(self) -> int:
        return self.numel * TORCH[self.dtype].itemsize

    def _forget(self, how: How) -> None:
        self.how = how
        self.parts, self.dtypes, self.shapes, self.numbers = {}, {}, {}, {}
        self._sums.error = {}

    def _piece(self, work: Callable[[int, int], None], start: int, stop: int) -> Piece:
        return lambda: work(start, stop)

    # -- one run ----------------------------------------------------------------

    def _read(self, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A run of expert and base, as stored; counted and compared."""
        found = []
        for what, given in (("expert", self.expert), ("base", self.base)):
            raw = given.source.block(given.name, start, stop)
            if repeatable(given.source):
                self.digests.add(what, raw, start)
            found.append(raw)
        own, base = found
        if own.dtype != base.dtype or not torch.equal(_raw(own), _raw(base)):
            self._differs = True
        return own, base

    def _run(self, start: int, stop: int) -> None:
        own, base = self._read(start, stop)
        if self.dtype in FLOATS and self.place.role is not Role.BUFFER:
            wide, before = own.float(), base.float()
            delta = wide - before
            self._check(delta, start)
            restored = own
            if self.how == "coded":
                parts, found = self._encoded(delta, start)
                restored = (before + found).to(own.dtype)
                self._put(parts, start)
            elif self.how == "base":
                restored = before.to(own.dtype)
            self._count(delta, wide - restored.float(), start)
        if self.how == "expert":
            self._put({WHOLE: own}, start)
        self._tell(stop - start)

    def _keep(self, start: int, stop: int) -> None:
        self._put({WHOLE: self.expert.source.block(self.expert.name, start, stop)}, start)

    def _whole(self) -> None:
        delta = torch.empty(self.numel)
        for start, stop in chunks(self.numel):
            own, base = self._read(start, stop)
            torch.sub(own.float(), base.float(), out=delta[start:stop])
            self._check(delta[start:stop], start)
        if self._differs:
            parts, found = self._encoded(delta.view(self.place.shape), 0)
            self._put(parts, 0)
            found = found.reshape(-1)
            for start, stop in chunks(self.numel):
                own, base = (
                    given.source.block(given.name, start, stop)
                    for given in (self.expert, self.base)
                )
                restored = (base.float() + found[start:stop]).to(own.dtype)
                self._count(delta[start:stop], own.float() - restored.float(), start)
        self._tell(self.numel)

    def _encoded(
        self, delta: torch.Tensor, start: int
    ) -> tuple[Mapping[str, torch.Tensor], torch.Tensor]:
        """The parts of a run or of a whole tensor, and what they are decoded to."""
        known = {k: v.at(start) if isinstance(v, Cutoff) else v for k, v in self.known.items()}
        known |= {**self.numbers, "count": delta.numel()}
        if self.codec.noise:
            known["noise"] = uniform(self.seed, self.name, start, start + delta.numel())
        try:
            parts = self._parts(delta, known)
            if not parts:  # nothing of this delta is worth keeping
                return parts, torch.zeros(delta.shape)
            return parts, call_decode(self.codec, parts, known, delta.shape)
        except DataError as error:
            raise type(error)(f"Tensor '{self.name}': {error}.") from error
        except CermetError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            kind = BudgetError if isinstance(error, torch.OutOfMemoryError) else MethodError
            raise kind(f"'{self.codec.name}' failed on tensor '{self.name}': {reason}.") from error

    def _parts(self, delta: torch.Tensor, known: Mapping[str, Any]) -> Mapping[str, torch.Tensor]:
        """What the codec makes of a delta on its device, on the CPU and contiguous."""
        given = {
            k: v.to(self.device) if isinstance(v, torch.Tensor) else v for k, v in known.items()
        }
        parts: Mapping[str, torch.Tensor] = call(
            self.codec.function, delta.to(self.device), **given
        )
        return {name: part.cpu().contiguous() for name, part in parts.items()}

    def _put(self, parts: Mapping[str, torch.Tensor], start: int) -> None:
        whole = self.how != "coded"
        stored = {name: self.spool.put(part) for name, part in parts.items()}
        with self._lock:
            for name, chunk in stored.items():
                self.parts.setdefault(name, {})[start] = chunk
                self.dtypes[name] = NAMES[parts[name].dtype]
                self.shapes[name] = self.place.shape if whole else tuple(parts[name].shape)

    # -- checks and figures -------------------------------------------------------

    def _check(self, delta: torch.Tensor, start: int) -> None:
        if not abs(float(delta.sum())) < FAR:
            for given in (self.expert, self.base):
                raw = given.source.block(given.name, start, start + delta.numel())
                refuse_non_finite(given, raw.float(), start)

    def _count(self, delta: torch.Tensor, error: torch.Tensor, start: int) -> None:
        size, off = (
            float(torch.linalg.vector_norm(x, dtype=torch.float64)) ** 2 for x in (delta, error)
        )
        if not math.isfinite(off):
            raise NonFiniteError(
                f"Tensor '{self.name}', restored, leaves the range of {self.dtype}; the codec "
                f"'{self.codec.name}' does not fit it."
            )
        with self._lock:
            self._sums.delta[start], self._sums.error[start] = size, off

    def _tell(self, count: int) -> None:
        if self.progress is not None:
            self.progress(count * TORCH[self.dtype].itemsize)


def call_decode(
    codec: Codec, parts: Mapping[str, torch.Tensor], known: Mapping[str, Any], shape: torch.Size
) -> torch.Tensor:
    """What a codec makes of its parts, float32 of this shape; ValueError where they do not fit."""
    from cermet.core.registry import takes

    absent = dict.fromkeys(takes(codec.decode) - known.keys())
    found: torch.Tensor = call(codec.decode, **{**absent, **known, **parts})
    if found.shape != shape:
        raise ValueError(f"it decodes to {list(found.shape)}, not {list(shape)}")
    return found


def part_digest(part: torch.Tensor, start: int) -> int:
    """Partial digest of elements of a part that begin at `start`."""
    raw = part.contiguous().view(torch.uint8).numpy()
    return digest_bytes(raw, start * part.element_size())


def _raw(block: torch.Tensor) -> torch.Tensor:
    return block.contiguous().view(torch.uint8)
