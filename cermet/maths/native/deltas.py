"""Models as they are stored, and the passes that the kernels make over them."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cermet.core.errors import FormatError, InputError
from cermet.maths.native import compiled
from cermet.maths.native.compiled import kernels
from cermet.maths.native.masks import Bits, Keep, Kept, no_bits
from cermet.maths.native.memory import (
    HELD,
    KINDS,
    Floats,
    Memory,
    Place,
    Room,
    address,
    floats,
    here,
    kind_of,
    lanes,
    magnitude,
)
from cermet.maths.native.results import Into, Out

__all__ = ["Bracketed", "Deltas", "Statistic", "in_files", "stored"]

_STATISTICS = {"value": 0, "magnitude": 1, "variance": 2}
_MODELS = 64  # as in stored.h
_ROOM = 1 << 20  # bytes of all models together that are read at once: what the second cache holds
_LEAST = 4096  # elements of each
_LARGEST = float(np.finfo(np.float32).max)

Statistic = str
"""What order statistics are taken of: "value", "magnitude", or "variance" over the models."""


@dataclass(frozen=True, slots=True)
class Bracketed:
    """What one pass tells of one bracket of one row; lists are leaf by leaf (`select.Tally`)."""

    above: int
    nonzero: int
    top: list[int]
    inside: list[int]
    bottom: list[int]
    kept: npt.NDArray[np.float32]


def _narrow(values: Sequence[float]) -> bool:
    """Whether numbers are float32's; torch refuses others with an error of its own."""
    return all(abs(v) <= _LARGEST for v in values)


def stored(models: Sequence[torch.Tensor], base: torch.Tensor | None = None) -> Deltas | None:
    """Tensors of one shape as the kernels take them, flat, and the base to subtract of them."""
    library = kernels()
    given = models if base is None else (*models, base)
    kinds = {t.dtype for t in given}
    if library is None or len(kinds) != 1 or not 0 < len(models) <= _MODELS:
        return None
    kind = kind_of(kinds.pop())
    if kind is None or not all(map(here, given)):
        return None
    places = [t.data_ptr() for t in models]
    below = None if base is None else base.data_ptr()
    return Deltas(library, (models, base), places, below, kind, models[0].numel())


def in_files(
    places: Sequence[Place], dtype: str, numel: int, first: int, *, based: bool
) -> Deltas | None:
    """As `stored`, of models in files, of a dtype as these spell it; torch has no part in it.

    numel: elements of each. first: which element of its tensor is the first of these. based:
    whether the last place is that of the base.
    """
    library, kind = kernels(), KINDS.get(dtype)
    count = len(places) - based
    if library is None or kind is None or not 0 < count <= _MODELS:
        return None
    return Deltas(library, places, [0] * count, 1 if based else None, kind, numel, places, first)


class Deltas:
    """Models as they are stored, minus their base if there is one: never in memory as a whole.

    Attributes
    ----------
    digests: what the last sum or election has read of each, and of the base behind them, adds
    to the digest of its tensor; empty where that was not in files.
    written: what it has written to a file adds to the digest of the merged tensor.
    """

    def __init__(
        self,
        library: Any,
        held: object,
        models: Sequence[int],
        base: int | None,
        kind: int,
        numel: int,
        places: Sequence[Place] = (),
        first: int = 0,
    ) -> None:
        self._library, self._held = library, held  # held while their memory is read
        self.count, self.numel, self._places = len(models), numel, places
        self._origin = (ctypes.c_void_p * len(models))(*models)
        self._given = compiled.Stored(
            len(models), ctypes.addressof(self._origin), base, kind, numel
        )
        self.digests: list[int] = []
        self.written = 0
        self._first = first
        if places:
            self._from_files()

    def _from_files(self) -> None:
        given, width = self._given, np.dtype(HELD[self._given.kind]).itemsize
        inputs = len(self._places)
        given.chunk = min(max(_ROOM // (inputs * width), _LEAST), self.numel)
        room = np.empty(inputs * given.chunk * width, np.uint8)
        files = (ctypes.c_int32 * inputs)(*(p.file for p in self._places))
        at = (ctypes.c_int64 * inputs)(*(p.at for p in self._places))
        self._own = (room, files, at)
        given.room, given.first = room.ctypes.data, self._first
        given.files, given.at = ctypes.addressof(files), ctypes.addressof(at)

    def _begin(self, *, digests: bool = False) -> Any:
        """What a kernel is given; to be followed by `_end` once it has run."""
        given = self._given
        given.have = given.failed = 0
        given.lanes = None
        if digests and self._places:
            self._sums = (ctypes.c_uint64 * len(self._places))()
            given.lanes, given.digests = lanes(), ctypes.addressof(self._sums)
        return ctypes.byref(given)

    def _end(self, most: int = 0, kept: Kept | None = None, into: Into | None = None) -> float:
        """The magnitude that a kernel returned; an error where a file could not be read, or
        not written (OSError).
        """
        given = self._given
        if given.failed:
            name = self._places[given.which].name
            if given.failed < 0:
                raise FormatError(f"'{name}' has become shorter while it was read.")
            raise InputError(f"'{name}' cannot be read: {os.strerror(given.failed)}.")
        if kept is not None:
            kept.used()
        if into is not None:
            self.written = into.used()
        self.digests = list(self._sums) if given.lanes else []
        return magnitude(most)

    def fill(self, deltas: Room, wide: Room) -> float:
        """Put the deltas into float32 [models, n], and the base, if there is one, into [n].

        The largest |delta|.
        """
        most = self._library.cermet_deltas(self._begin(), address(deltas), address(wide))
        return self._end(most)

    def made(self) -> tuple[Floats, Floats, float]:
        """The deltas float32 [models, n], the base [n] (empty without one), the largest |delta|."""
        deltas: Floats = np.empty((self.count, self.numel), np.float32)
        wide: Floats = np.empty(self.numel if self._given.base else 0, np.float32)
        return deltas, wide, self.fill(deltas, wide)

    def room(self, dtype: str) -> Memory:
        """Memory for a result [n] of one of the dtypes in KINDS."""
        return np.empty(self.numel, HELD[KINDS[dtype]])

    def summed(
        self, out: Out, factors: Sequence[float], keep: Keep, dtype: str = "F32"
    ) -> float | None:
        """Put base + Σ fᵢδᵢ of what is kept, rounded once to a dtype, into `out`.

        `out`: memory, or a place in a file if the models are in files.

        The largest |delta|; None where it cannot be done.
        """
        kind = KINDS.get(dtype)
        if kind is None or not _narrow(factors):
            return None
        kept, into = Kept(keep), Into(out, kind, self.numel, self._first)
        most = self._library.cermet_sum(
            self._begin(digests=True), kept.given, floats(factors), into.given
        )
        return self._end(most, kept, into)

    def elected(
        self,
        out: Out,
        factors: Sequence[float],
        shares: Sequence[float],
        keep: Keep,
        dtype: str = "F32",
        *,
        plain: bool,
        normalize: bool,
        scale: float,
    ) -> float | None:
        """As `summed`, of base + `scale` times what agrees with the elected sign.

        `plain`: the sign is that of the sum of the deltas themselves, not of the weighted ones.
        """
        kind = KINDS.get(dtype)
        if kind is None or not _narrow([*factors, *shares, scale]):
            return None
        kept, into = Kept(keep), Into(out, kind, self.numel, self._first)
        most = self._library.cermet_elect(
            self._begin(digests=True), kept.given, floats(factors), floats(shares),
            plain, normalize, scale, into.given,
        )  # fmt: skip
        return self._end(most, kept, into)

    def variance(self) -> tuple[Floats, float]:
        """Population variance over the models, [n]; the largest |delta|."""
        found: Floats = np.empty(self.numel, np.float32)
        most = self._library.cermet_variance(self._begin(), found.ctypes.data)
        return found, self._end(most)

    def tallied(
        self,
        statistic: Statistic,
        brackets: Sequence[tuple[int, float, float]],
        leaf: int,
        cap: int,
    ) -> tuple[list[Bracketed], float]:
        """What a pass over a statistic tells of brackets (row, low, high), whose bounds belong
        to them; and the largest magnitude that it met. At most `cap` values of each are kept.
        """
        cap = min(cap, self.numel)
        room = min(cap, self.numel // 32 + 512)  # a bracket holds a few in a hundred
        told, most = self._tallied(statistic, brackets, leaf, room)
        if room < cap and any(len(b.kept) == room for b in told):
            told, most = self._tallied(statistic, brackets, leaf, cap)
        return told, most

    def _tallied(
        self,
        statistic: Statistic,
        brackets: Sequence[tuple[int, float, float]],
        leaf: int,
        room: int,
    ) -> tuple[list[Bracketed], float]:
        counts = np.zeros((len(brackets), 3, -(-self.numel // leaf)), np.int64)
        kept = np.empty((len(brackets), room), np.float32)
        looks = (compiled.Look * len(brackets))(
            *(
                compiled.Look(
                    row, room, low, high, 0, 0, 0, *(c.ctypes.data for c in n), k.ctypes.data
                )
                for (row, low, high), n, k in zip(brackets, counts, kept, strict=True)
            )
        )
        most = self._library.cermet_tally(
            self._begin(), _STATISTICS[statistic], leaf, len(brackets), looks
        )
        magnitude, told = self._end(most), []
        for seen, (top, inside, bottom), values in zip(looks, counts.tolist(), kept, strict=True):
            values = values[: seen.taken].copy()
            told.append(Bracketed(seen.above, seen.nonzero, top, inside, bottom, values))
        return told, magnitude

    def norms(self, keep: Keep, power: int, leaf: int, *, before: bool) -> tuple[Floats, float]:
        """Floats of |delta|ᵖ over leaves, and of what is kept of it: float32 [2, models, leaves];
        zeros instead of the first without `before`. And the largest |delta|.
        """
        found: Floats = np.zeros((2, self.count, -(-self.numel // leaf)), np.float32)
        kept = Kept(keep)
        most = self._library.cermet_norms(
            self._begin(), kept.given, power, before, leaf, found.ctypes.data
        )
        return found, self._end(most, kept)

    def gram(self, leaf: int) -> tuple[Floats, float]:
        """Inner products over leaves, float32 [models, models, leaves]; the largest |delta|."""
        pairs = [(i, j) for i in range(self.count) for j in range(i, self.count)]
        found: Floats = np.empty((len(pairs), -(-self.numel // leaf)), np.float32)
        most = self._library.cermet_gram(self._begin(), leaf, found.ctypes.data)
        magnitude = self._end(most)
        gram: Floats = np.empty((self.count, self.count, found.shape[1]), np.float32)
        for (i, j), products in zip(pairs, found, strict=True):
            gram[i, j] = gram[j, i] = products
        return gram, magnitude

    def ranked(
        self,
        draws: Sequence[npt.NDArray[np.int16]],
        density: Sequence[float],
        epsilon: Sequence[float],
        columns: int,
    ) -> Bits:
        """Bits that are kept with a probability that grows with their rank in their row."""
        bits = no_bits(self.count * self.numel)
        for m, (drawn, share, half) in enumerate(zip(draws, density, epsilon, strict=True)):
            first = m * self.numel
            if share >= 1 or share <= 0 or half == 0 or columns == 1:
                self._library.cermet_chance(
                    drawn.ctypes.data, self.numel, share, first, bits.ctypes.data
                )
                continue
            alone = self._alone(m)
            done = self._library.cermet_ranked(
                alone._begin(), columns, drawn.ctypes.data,
                share - half, 2 * half / (columns - 1), first, bits.ctypes.data,
            )  # fmt: skip
            alone._end()
            if not done:
                raise MemoryError(f"no room for a row of {columns:,} numbers")
        return Bits(bits, self.count)

    def _alone(self, m: int) -> Deltas:
        """One of the models, minus the base."""
        given, below = self._given, self._places[self.count :]
        places = (self._places[m], *below) if self._places else ()
        model = int(self._origin[m] or 0)
        return Deltas(
            self._library, self._held, [model], given.base, given.kind, self.numel, places,
            given.first,
        )  # fmt: skip
