"""One expert's model out of an assembly: merged weights, its base, and the expert's parts."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from cermet.checkpoints.reader import Checkpoint
from cermet.core.cover import grain_of
from cermet.core.errors import InputError
from cermet.core.fingerprint import digest_bytes
from cermet.core.registry import Method, Numbers, Part, call
from cermet.core.types import Place
from cermet.engine.blocks import Input
from cermet.engine.geometry import LEAF, geometry
from cermet.engine.job import Piece
from cermet.engine.parts import unpacked
from cermet.engine.target import Target
from cermet.recipes.assembly import part_name

__all__ = ["Digests", "RestoreJob", "parts_of", "shares"]

_BLOCK = 4 * LEAF

Key = TypeVar("Key")


def shares(weights: Mapping[Key, float]) -> dict[Key, float]:
    """Weights as shares of 1; InputError where one is negative or all are zero."""
    total = sum(weights.values())
    if not all(0 <= w < math.inf for w in weights.values()) or not 0 < total < math.inf:
        given = ", ".join(f"{key}={weight:g}" for key, weight in weights.items())
        raise InputError(f"The weights of tasks are positive numbers, not {given}.")
    return {key: weight / total for key, weight in weights.items() if weight}


def parts_of(method: Method, label: str, tensor: str, kept: Container[str]) -> dict[str, str]:
    """The parts that an expert has of a tensor -> the names under which they are stored."""
    names = {part.name: part_name(part, label, tensor) for part in method.parts}
    return {part: name for part, name in names.items() if name in kept}


@dataclass
class Digests:
    """Partial digests of what was read and written, by what it is called; adds up in threads."""

    total: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, name: str, block: torch.Tensor, start: int) -> None:
        """Count the elements of a flat block, which begins at element `start`."""
        raw = block.detach().contiguous().view(torch.uint8).numpy()
        self.count(name, digest_bytes(raw, start * block.element_size()))

    def count(self, name: str, part: int) -> None:
        """Count a partial digest."""
        with self._lock:
            self.total[name] = self.total.get(name, 0) + part


class RestoreJob:
    """One tensor of one expert's model, or of several by weights that sum to 1.

    Attributes
    ----------
    base: None where the method needs none. kept: what holds the parts.
    parts: for each of the experts, part -> its name in `kept`, for those that the tensor has.
    digests: of what was read (`merged`, `base`, and parts by their names) and written (`out`).
    """

    together = False

    def __init__(
        self,
        place: Place,
        method: Method,
        parameters: Mapping[str, Any],
        merged: Input,
        base: Input | None,
        kept: Checkpoint,
        parts: Sequence[Mapping[str, str]],
        weights: Sequence[float],
        target: Target,
        *,
        block: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self.name, self.place, self.method = place.name, place, method
        self.merged, self.base, self.kept = merged, base, kept
        self.parts, self.weights = tuple(parts), tuple(weights)
        self.target, self.progress = target, progress
        grain = grain_of(method, place=place, count=len(self.parts), **parameters)
        self.cut = geometry(place.shape, grain, block or _BLOCK)
        self.digests = Digests()

    @property
    def numel(self) -> int:
        """Elements of the output."""
        return self.cut.numel

    def stages(self) -> Iterator[list[Piece]]:
        """One stage of independent pieces."""
        if self.cut.numel:
            yield [self._piece(start, stop) for start, stop in self.cut.pieces()]

    def _piece(self, start: int, stop: int) -> Piece:
        return lambda: self._restore(start, stop)

    def _restore(self, start: int, stop: int) -> None:
        for begin, end in self.cut.blocks(start, stop):
            out = self._block(begin, end).to(self.target.dtype)
            self.digests.add("out", out, begin)
            self.target.put(begin, out)
        if self.progress is not None:
            self.progress((stop - start) * self.target.dtype.itemsize)

    def _block(self, begin: int, end: int) -> torch.Tensor:
        """The restored block, float32; one expert's own is not multiplied by anything."""
        merged = self._read("merged", self.merged, begin, end)
        base = None if self.base is None else self._read("base", self.base, begin, end)
        total: torch.Tensor | None = None
        shared: dict[str, torch.Tensor | None] = {}  # read once, and counted once
        for parts, weight in zip(self.parts, self.weights, strict=True):
            known = {}
            for part in self.method.parts:
                if not (isinstance(part, Numbers) and part.shared):
                    known[part.name] = self._part(part, parts.get(part.name), begin, end)
                    continue
                if part.name not in shared:
                    shared[part.name] = self._part(part, parts.get(part.name), begin, end)
                known[part.name] = shared[part.name]
            assert self.method.restore is not None
            own: torch.Tensor = call(
                self.method.restore, merged, base=base, place=self.place, **known
            )
            if len(self.weights) == 1:
                return own
            total = own.mul(weight) if total is None else total.add_(own, alpha=weight)
        assert total is not None
        return total

    def _read(self, what: str, given: Input, begin: int, end: int) -> torch.Tensor:
        raw = given.source.block(given.name, begin, end)
        if given.source.exact:
            self.digests.add(what, raw, begin)
        return raw.to(torch.float32)

    def _part(self, part: Part, name: str | None, begin: int, end: int) -> torch.Tensor | None:
        if name is None:
            return None
        if isinstance(part, Numbers):
            return self._rows(name, begin, end) if part.by_row else self._numbers(name, begin)
        first, last = begin // 8, -(-end // 8)
        stored = self.kept.block(name, first, last)
        counted = first + (begin % 8 > 0)  # a byte that is shared counts with the block before
        if counted < last:
            self.digests.add(name, stored[counted - first :], counted)
        return unpacked(stored, begin, end - begin)

    def _numbers(self, name: str, begin: int) -> torch.Tensor:
        info = self.kept.tensors[name]
        stored = self.kept.block(name, 0, info.numel)
        if begin == 0:
            self.digests.add(name, stored, 0)
        return stored.to(torch.float32).reshape(info.shape)

    def _rows(self, name: str, begin: int, end: int) -> torch.Tensor:
        shape = self.kept.tensors[name].shape[1:]
        first, last = (at // self.cut.unit * math.prod(shape) for at in (begin, end))
        stored = self.kept.block(name, first, last)
        self.digests.add(name, stored, first)
        return stored.to(torch.float32).reshape(-1, *shape)
