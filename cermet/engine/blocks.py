"""The blocks of one output tensor: reading them, their random numbers, their masks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from cermet.checkpoints.dtypes import TORCH
from cermet.checkpoints.reader import SafetensorsCheckpoint
from cermet.core.noise import RESOLUTION, Stream, Streams
from cermet.core.registry import Method, call
from cermet.engine.geometry import Geometry
from cermet.maths import native
from cermet.maths.native.compiled import kernels

__all__ = ["Blocks", "Input", "Source"]


class Source(Protocol):
    """Something that blocks of tensors can be read from."""

    @property
    def path(self) -> str: ...
    @property
    def exact(self) -> bool: ...

    def block(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Flat elements [start, stop) of a tensor, in its stored dtype."""


@dataclass(frozen=True, slots=True)
class Input:
    """One tensor of one model that a job reads."""

    source: Source
    name: str


class Blocks:
    """What the functions of a method are given of one tensor, block by block."""

    def __init__(
        self,
        name: str,
        method: Method,
        cut: Geometry,
        inputs: Sequence[Input],
        base: Input | None,
        minus: Sequence[Input | None],
        seed: int,
        noise: torch.Tensor | None,
        dtype: str | None,
        device: str,
        cache: int,
        needs: Mapping[str, Sequence[Input]] | None = None,
        squares: Mapping[str, int] | None = None,
    ) -> None:
        self.name, self.method, self.cut = name, method, cut
        self.inputs, self.base, self.minus = tuple(inputs), base, tuple(minus)
        self.needs = {name: tuple(given) for name, given in (needs or {}).items()}
        self._squares = dict(squares or {})  # elements of a matrix's statistic that is square
        self.seed, self.noise = seed, noise
        self._dtype, self._device = dtype, device
        self._files, self._kind = self._stored_alike()
        # Masks are kept as bits from the first pass that makes them, if they fit; a GPU makes
        # them again faster than it could send them away and back.
        fits = len(self.inputs) * cut.numel // 8 <= cache
        self._keep = fits and device == "cpu" and bool(method.rounds)
        self._masks: dict[tuple[int, int], native.Bits] = {}

    @property
    def dtype(self) -> torch.dtype | None:
        """What the recipe has its inputs cast to."""
        return None if self._dtype is None else TORCH[self._dtype]

    @property
    def device(self) -> torch.device:
        """Where blocks are worked on."""
        return torch.device(self._device)

    def _stored_alike(self) -> tuple[list[tuple[SafetensorsCheckpoint, str]], str]:
        """Where all inputs (and the base) stand in files, and their dtype.

        Nothing where they cannot be worked on just as they stand there.
        """
        given = [(i.source, i.name) for i in self.weights()]
        files = [(s, name) for s, name in given if isinstance(s, SafetensorsCheckpoint)]
        kinds = {source.tensors[name].dtype for source, name in files}
        kind = kinds.pop() if len(kinds) == 1 else ""
        elsewhere = self.minus or self.cut.grain == "column" or self._device != "cpu"
        if elsewhere or len(files) < len(given) or self._dtype not in (None, kind):
            return [], ""
        return files, kind

    @property
    def in_files(self) -> bool:
        """Whether the compiled kernels read all that a method of this tensor reads from files."""
        read = self._kind in native.KINDS and kernels() is not None
        return read and not self.needs and self.noise is None

    def weights(self) -> tuple[Input, ...]:
        """Every tensor of a model that is read."""
        own = tuple(m for m in self.minus if m is not None)
        return (*self.inputs, *(() if self.base is None else (self.base,)), *own)

    def given(self) -> tuple[Input, ...]:
        """Every tensor that is read, in the order of the plan's `Task.inputs`."""
        return (*self.weights(), *(i for given in self.needs.values() for i in given))

    def parts(self, start: int, stop: int) -> list[tuple[Input, int, int]]:
        """Every tensor that is read, with where in it the values for a block lie."""
        named = [(i, *self.part(n, start, stop)) for n, given in self.needs.items() for i in given]
        return [*((i, start, stop) for i in self.weights()), *named]

    def read(self, given: Input, start: int, stop: int) -> torch.Tensor:
        """Elements of a model's tensor in the dtype of the recipe; columns come as rows."""
        raw = self._stored(given, start, stop)
        return raw if self.dtype is None else raw.to(self.dtype)

    def statistic(self, name: str, start: int, stop: int) -> torch.Tensor:
        """The block of a statistic, float32 [its files, *block]."""
        files = self.needs[name]
        if name in self._squares:
            return self._square(name, start, stop)
        found = torch.empty(len(files), stop - start, dtype=torch.float32, device=self.device)
        shaped = self._shaped(found)
        for row, given in zip(shaped, files, strict=True):
            raw = self._stored(given, start, stop)
            row.copy_(raw if raw.ndim == row.ndim else self._shaped(raw))
        return shaped

    def _square(self, name: str, start: int, stop: int) -> torch.Tensor:
        """The statistic of a whole matrix: float32 [its files, inputs, inputs]."""
        begin, end = self.part(name, start, stop)
        side = math.isqrt(end - begin)
        parts = [given.source.block(given.name, begin, end) for given in self.needs[name]]
        return torch.stack([p.to(self.device, torch.float32).view(side, side) for p in parts])

    def part(self, name: str, start: int, stop: int) -> tuple[int, int]:
        """Where in the files of a statistic the values for a block lie."""
        size = self._squares.get(name)
        if size is None:
            return start, stop
        return start // self.cut.unit * size, stop // self.cut.unit * size

    def _stored(self, given: Input, start: int, stop: int) -> torch.Tensor:
        """Elements of an input as they are stored; columns come as rows."""
        cut = self.cut
        if cut.grain != "column" or cut.length is None:
            raw = given.source.block(given.name, start, stop)
        else:
            whole = given.source.block(given.name, 0, cut.numel).view(cut.length, -1)
            raw = whole[:, start // cut.unit : stop // cut.unit].t()
        # As it is stored: torch converts before it sends, which would send more bytes to a GPU.
        return raw.to(self.device)

    def _shaped(self, flat: torch.Tensor) -> torch.Tensor:
        length = self.cut.length
        return flat if length is None else flat.view(*flat.shape[:-1], -1, length)

    def _float(self, given: Input, start: int, stop: int) -> torch.Tensor:
        """One input in float32 on the device, in the shape that the method sees."""
        raw = self.read(given, start, stop).to(torch.float32)
        return raw if self.cut.grain == "column" else self._shaped(raw)

    def load(self, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor | None, float | None]:
        """The block that the method sees, float32 [models, *block], and the base to add back.

        The third is the largest magnitude of the block, where it is known already.
        """
        deltas = self.stored(start, stop)
        if deltas is not None:
            block = torch.empty(deltas.count, deltas.numel)
            wide = torch.empty(deltas.numel if self.base is not None else 0)
            most = deltas.fill(block, wide)
            return self._shaped(block), None if self.base is None else self._shaped(wide), most
        count = len(self.inputs)
        block = torch.empty(count, stop - start, dtype=torch.float32, device=self.device)
        shaped = self._shaped(block)
        for row, given in zip(shaped, self.inputs, strict=True):
            raw = self.read(given, start, stop)
            row.copy_(raw if raw.ndim == row.ndim else self._shaped(raw))
        base = self._float(self.base, start, stop) if self.base is not None else None
        if not self.minus:
            return (shaped if base is None else shaped.sub_(base)), base, None
        for row, own in zip(shaped, self.minus, strict=True):
            if own is not None:
                row.sub_(self._float(own, start, stop))
            elif base is not None:
                row.sub_(base)
        return shaped, base, None

    def stored(self, start: int, stop: int) -> native.Deltas | None:
        """A block as the compiled kernels read it; None where they cannot."""
        if self._kind in native.KINDS:
            places = [native.Place(*source.place(name, start)) for source, name in self._files]
            based = self.base is not None
            return native.in_files(places, self._kind, stop - start, start, based=based)
        if self.minus or self.cut.grain == "column" or self._device != "cpu":
            return None
        base = None if self.base is None else self.read(self.base, start, stop)
        return native.stored([self.read(given, start, stop) for given in self.inputs], base)

    def fold(
        self, coefficients: Sequence[float], start: int, stop: int
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Σ cᵢxᵢ of a block, model by model, and the base to add back.

        The bits of `weighted_sum` on what `load` gives, in a fraction of its memory: what
        does not fit into the processor's cache costs more than the arithmetic.
        """
        base = self._float(self.base, start, stop) if self.base is not None else None
        own = self.minus or (None,) * len(self.inputs)
        total = room = self._room(start, stop)
        for i, (given, minus) in enumerate(zip(self.inputs, own, strict=True)):
            raw = self.read(given, start, stop)
            room.copy_(raw if raw.ndim == room.ndim else self._shaped(raw))
            subtracted = base if minus is None else self._float(minus, start, stop)
            if subtracted is not None:
                room.sub_(subtracted)
            if i:
                total.add_(room, alpha=coefficients[i])
            else:
                total = room if coefficients[0] == 1.0 else room.mul_(coefficients[0])
                room = self._room(start, stop) if len(self.inputs) > 1 else room
        return total, base

    def _room(self, start: int, stop: int) -> torch.Tensor:
        return self._shaped(torch.empty(stop - start, dtype=torch.float32, device=self.device))

    def _counts(self) -> dict[str, int]:
        """Argument for random numbers -> for how many models it has some."""
        return {name: len(self.inputs) if each else 1 for name, each in self.method.draws.items()}

    def streams(self) -> Streams:
        """Fresh random numbers for one piece; none where the method draws none."""
        if self.noise is not None:
            return {}
        return {
            argument: [Stream(self.seed, self.name, i, step) for i in range(count)]
            for step, (argument, count) in enumerate(self._counts().items())
        }

    def draws(self, streams: Streams, argument: str, start: int, stop: int) -> torch.Tensor:
        """Uniform numbers in [0, 1) for every position of a block, of each model or of one."""
        if self.noise is not None:
            return self._given_draws(self.noise, argument, start, stop)
        drawn = np.stack([s.draw(start, stop) for s in streams[argument]]).view(np.int16)
        uniform = native.uniform(drawn)
        if uniform is None:
            uniform = torch.from_numpy(drawn).to(torch.float32)
            # Signed 16-bit integers convert fast; the shift makes them 0 .. 65,535 again.
            uniform.add_(RESOLUTION // 2).mul_(1.0 / RESOLUTION)
        return self._shaped(uniform.to(self.device))

    def _given_draws(
        self, noise: torch.Tensor, argument: str, start: int, stop: int
    ) -> torch.Tensor:
        """As `draws`, from what a caller gives: the draws of every argument, one after another."""
        counts, cut = self._counts(), self.cut
        before = list(counts).index(argument)
        first = sum(list(counts.values())[:before])
        own = noise[first : first + counts[argument]]
        if cut.grain != "column" or cut.length is None:
            given = own.reshape(len(own), -1)[:, start:stop]
            return self._shaped(given.to(self.device, torch.float32))
        columns = own.reshape(len(own), cut.length, -1)
        given = columns[..., start // cut.unit : stop // cut.unit].transpose(1, 2)
        return given.to(self.device, torch.float32)

    def mask(
        self,
        block: torch.Tensor,
        known: Mapping[str, Any],
        streams: Streams,
        start: int,
        stop: int,
    ) -> torch.Tensor:
        """The method's mask of a block: made once, then unpacked from its bits."""
        kept = self._masks.get((start, stop))
        if kept is not None and kept.above is None:
            return _unpacked(kept, block.shape)
        assert self.method.mask is not None
        if self.method.noise:
            known = {**known, "noise": self.draws(streams, "noise", start, stop)}
        mask: torch.Tensor = call(self.method.mask, block, **known)
        if self._keep:
            self._masks[start, stop] = _packed(mask)
        return mask

    def bits(
        self, start: int, stop: int, make: Callable[[], native.Bits | None]
    ) -> native.Bits | None:
        """The mask of a block as bits: those that are kept, else those that `make` makes."""
        kept = self._masks.get((start, stop))
        made = make() if kept is None else kept
        if self._keep and made is not None:
            self._masks[start, stop] = made
        return made


def _packed(mask: torch.Tensor) -> native.Bits:
    bits = native.packed(mask)
    return native.Bits(np.packbits(mask.numpy() != 0) if bits is None else bits, len(mask))


def _unpacked(kept: native.Bits, shape: torch.Size) -> torch.Tensor:
    """The mask of a block of this shape [models, *block]: of each model, or one for all."""
    shape = torch.Size([kept.rows, *shape[1:]])
    mask = native.unpacked(kept.bits, shape)
    if mask is not None:
        return mask
    flat = np.unpackbits(kept.bits, count=shape.numel())
    return torch.from_numpy(flat).to(torch.float32).view(shape)
