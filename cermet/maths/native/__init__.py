"""The inner loops of merges in C, where a compiler is at hand: fewer passes, the same bits.

`kernels.c` is compiled once, on the machine that runs it, and kept in Cermet's cache. Where
that cannot be done (no compiler, another processor, CERMET_NATIVE=0) every caller runs its
torch code, which gives the same numbers to the last bit. What is asked for here comes as None
where it does not apply to what is given, and the caller goes on with torch.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, Union

import numpy as np
import numpy.typing as npt
import torch

from cermet.core.errors import FormatError, InputError
from cermet.core.fingerprint import lane_constants
from cermet.maths.native import compiled
from cermet.maths.native.compiled import kernels

__all__ = [
    "KINDS",
    "Bits",
    "Bracketed",
    "Cuts",
    "Deltas",
    "Keep",
    "Memory",
    "Place",
    "Statistic",
    "chance",
    "digest",
    "drawn",
    "finished",
    "in_files",
    "packed",
    "plain",
    "stored",
    "uniform",
    "unpacked",
    "varying",
]

KINDS = {"F32": 0, "BF16": 1}
"""The dtypes that the kernels read and write, as files spell them -> their number in kernels.c."""

_HELD = (np.float32, np.uint16)  # what NumPy holds numbers of a kind as
_STATISTICS = {"value": 0, "magnitude": 1, "variance": 2}
_MODELS = 64  # as in kernels.c
_ROOM = 256 << 10  # bytes of all models together that are worked on at once: the second cache
_LEAST = 4096  # elements of each
_LARGEST = float(np.finfo(np.float32).max)

Memory = npt.NDArray[Any]
"""Numbers as they are stored: float32 or bfloat16, or the bits of either as integers."""

Floats = npt.NDArray[np.float32]

Room = Union["torch.Tensor", Memory]
"""Memory that is to be filled."""

Statistic = str
"""What order statistics are taken of: "value", "magnitude", or "variance" over the models."""

Cuts = tuple[Sequence[tuple[float, int]], ...]
"""For each model its cuts: the threshold, and where values equal to it are no longer kept."""


@dataclass(slots=True)
class Bits:
    """A mask of ones and zeros of `rows` models (or of one for all), as bits end to end.

    above: where they are still to be made, by the first sum, election or norms that keep what
    they let through: the threshold that the variance over the models is to pass, and the element
    before which it may also reach it.
    """

    bits: npt.NDArray[np.uint8]
    rows: int
    above: tuple[float, int] | None = None


def varying(numel: int, threshold: float, until: int) -> Bits:
    """Bits of so many elements that are made when they are first used."""
    return Bits(_no_bits(numel), 1, (threshold, until))


# as a string: torch is not imported for its name
Keep = Union[Cuts, Bits, "torch.Tensor", None]
"""What of the deltas is kept: what passes cuts (without what passes the second ones), what a
mask lets through (as a tensor float32 [models or 1, *block]), or all."""


@dataclass(frozen=True, slots=True)
class Bracketed:
    """What one pass tells of one bracket of one row; lists are leaf by leaf (`select.Tally`)."""

    above: int
    nonzero: int
    top: list[int]
    inside: list[int]
    bottom: list[int]
    kept: npt.NDArray[np.float32]


def plain(*tensors: torch.Tensor) -> bool:
    """Whether tensors are float32 in this machine's memory, without gaps."""
    return all(t.dtype == torch.float32 and _here(t) for t in tensors)


def _here(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.is_contiguous()


def _narrow(values: Sequence[float]) -> bool:
    """Whether numbers are float32's; torch refuses others with an error of its own."""
    return all(abs(v) <= _LARGEST for v in values)


@cache
def _lanes() -> int:
    """Where the constants of digests lie."""
    return int(lane_constants().ctypes.data)


def digest(data: Memory, offset: int) -> int | None:
    """As `digest_bytes`, of numbers without gaps."""
    library = kernels()
    if library is None or not data.flags.c_contiguous:
        return None
    return int(library.cermet_digest(data.ctypes.data, data.nbytes, offset, _lanes()))


def _floats(values: Sequence[float]) -> Any:
    return (ctypes.c_float * len(values))(*values)


def _magnitude(bits: int) -> float:
    return float(np.array(bits, np.uint32).view(np.float32))


def _address(room: Room) -> int:
    return int(room.ctypes.data) if isinstance(room, np.ndarray) else room.data_ptr()


def _kind(dtype: torch.dtype) -> int | None:
    return {torch.float32: 0, torch.bfloat16: 1}.get(dtype)


def stored(models: Sequence[torch.Tensor], base: torch.Tensor | None = None) -> Deltas | None:
    """Tensors of one shape as the kernels take them, flat, and the base to subtract of them."""
    library = kernels()
    given = models if base is None else (*models, base)
    kinds = {t.dtype for t in given}
    if library is None or len(kinds) != 1 or not 0 < len(models) <= _MODELS:
        return None
    kind = _kind(kinds.pop())
    if kind is None or not all(map(_here, given)):
        return None
    places = [t.data_ptr() for t in models]
    below = None if base is None else base.data_ptr()
    return Deltas(library, (models, base), places, below, kind, models[0].numel())


class Place(NamedTuple):
    """Where numbers stand: the descriptor of an open file, a byte in it, what to call the file."""

    file: int
    at: int
    name: str


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
        if places:
            self._from_files(first)

    def _from_files(self, first: int) -> None:
        given, width = self._given, np.dtype(_HELD[self._given.kind]).itemsize
        inputs = len(self._places)
        given.chunk = min(max(_ROOM // (inputs * width), _LEAST), self.numel)
        room = np.empty(inputs * given.chunk * width, np.uint8)
        files = (ctypes.c_int32 * inputs)(*(p.file for p in self._places))
        at = (ctypes.c_int64 * inputs)(*(p.at for p in self._places))
        self._own = (room, files, at)
        given.room, given.first = room.ctypes.data, first
        given.files, given.at = ctypes.addressof(files), ctypes.addressof(at)

    def _begin(self, *, digests: bool = False) -> Any:
        """What a kernel is given; to be followed by `_end` once it has run."""
        given = self._given
        given.have = given.failed = 0
        given.lanes = None
        if digests and self._places:
            self._sums = (ctypes.c_uint64 * len(self._places))()
            given.lanes, given.digests = _lanes(), ctypes.addressof(self._sums)
        return ctypes.byref(given)

    def _end(self, most: int = 0, kept: _Kept | None = None) -> float:
        """The magnitude that a kernel returned; an error where a file could not be read."""
        given = self._given
        if given.failed:
            name = self._places[given.which].name
            if given.failed < 0:
                raise FormatError(f"'{name}' has become shorter while it was read.")
            raise InputError(f"'{name}' cannot be read: {os.strerror(given.failed)}.")
        if kept is not None:
            kept.used()
        self.digests = list(self._sums) if given.lanes else []
        return _magnitude(most)

    def fill(self, deltas: Room, wide: Room) -> float:
        """Put the deltas into float32 [models, n], and the base, if there is one, into [n].

        The largest |delta|.
        """
        most = self._library.cermet_deltas(self._begin(), _address(deltas), _address(wide))
        return self._end(most)

    def made(self) -> tuple[Floats, Floats, float]:
        """The deltas float32 [models, n], the base [n] (empty without one), the largest |delta|."""
        deltas: Floats = np.empty((self.count, self.numel), np.float32)
        wide: Floats = np.empty(self.numel if self._given.base else 0, np.float32)
        return deltas, wide, self.fill(deltas, wide)

    def room(self, dtype: str) -> Memory:
        """Memory for a result [n] of one of the dtypes in KINDS."""
        return np.empty(self.numel, _HELD[KINDS[dtype]])

    def summed(
        self, out: Room, factors: Sequence[float], keep: Keep, dtype: str = "F32"
    ) -> float | None:
        """Put base + Σ fᵢδᵢ of what is kept, rounded once to a dtype, into `out`.

        The largest |delta|; None where it cannot be done.
        """
        into = KINDS.get(dtype)
        if into is None or not _narrow(factors):
            return None
        kept = _Kept(keep)
        most = self._library.cermet_sum(
            self._begin(digests=True), kept.given, _floats(factors), _address(out), into
        )
        return self._end(most, kept)

    def elected(
        self,
        out: Room,
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
        into = KINDS.get(dtype)
        if into is None or not _narrow([*factors, *shares, scale]):
            return None
        kept = _Kept(keep)
        most = self._library.cermet_elect(
            self._begin(digests=True), kept.given, _floats(factors), _floats(shares),
            plain, normalize, scale, _address(out), into,
        )  # fmt: skip
        return self._end(most, kept)

    def variance(self) -> Floats:
        """Population variance over the models: [n]."""
        found: Floats = np.empty(self.numel, np.float32)
        self._library.cermet_variance(self._begin(), found.ctypes.data)
        self._end()
        return found

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
        kept = _Kept(keep)
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
        bits = _no_bits(self.count * self.numel)
        for m, (drawn, share, half) in enumerate(zip(draws, density, epsilon, strict=True)):
            first = m * self.numel
            if share >= 1 or share <= 0 or half == 0 or columns == 1:
                self._library.cermet_chance(
                    drawn.ctypes.data, self.numel, share, first, bits.ctypes.data
                )
                continue
            alone = self._alone(m)
            ordered = np.empty((self.numel // columns, columns + 2), np.float32)
            self._library.cermet_bounded(alone._begin(), columns, ordered.ctypes.data)
            ordered.sort()
            self._library.cermet_ranked(
                alone._begin(), columns, ordered.ctypes.data, drawn.ctypes.data,
                share - half, 2 * half / (columns - 1), first, bits.ctypes.data,
            )  # fmt: skip
            alone._end()
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


class _Kept:
    """`compiled.Kept`, and the memory that it points to."""

    def __init__(self, keep: Keep) -> None:
        kept = compiled.Kept()
        self._held: Any = keep
        if isinstance(keep, Bits):
            kept.masks, kept.bits = keep.rows, keep.bits.ctypes.data
            if keep.above is not None:
                kept.vary, (kept.threshold, kept.until) = 1, keep.above
        elif isinstance(keep, tuple):
            flat = [cut for cuts in keep for cut in cuts]
            above = np.array([value for value, _ in flat], np.float32)
            inclusive = np.nextafter(above, np.float32(-np.inf))
            ends = np.array([end for _, end in flat], np.int64)
            self._held = (above, inclusive, ends)
            kept.cuts = len(keep[0])
            kept.above, kept.inclusive = above.ctypes.data, inclusive.ctypes.data
            kept.end = ends.ctypes.data
        elif keep is not None:
            kept.masks, kept.mask = len(keep), keep.data_ptr()
        self._kept = kept

    @property
    def given(self) -> Any:
        return ctypes.byref(self._kept)

    def used(self) -> None:
        """A kernel has gone over all elements."""
        if isinstance(self._held, Bits):
            self._held.above = None


def _no_bits(count: int) -> npt.NDArray[np.uint8]:
    return np.zeros(-(-count // 8), np.uint8)


def finished(
    merged: torch.Tensor, base: torch.Tensor | None, dtype: torch.dtype
) -> torch.Tensor | None:
    """merged + base, rounded once to `dtype`: flat [n]."""
    library, into = kernels(), _kind(dtype)
    given = (merged,) if base is None else (merged, base)
    if library is None or into is None or not plain(*given):
        return None
    out = torch.empty(merged.numel(), dtype=dtype)
    plus = None if base is None else base.data_ptr()
    library.cermet_finish(merged.data_ptr(), plus, merged.numel(), out.data_ptr(), into)
    return out


def uniform(draws: npt.NDArray[np.int16]) -> torch.Tensor | None:
    """16-bit draws as numbers in [0, 1)."""
    library = kernels()
    if library is None or not draws.flags.c_contiguous:
        return None
    out = torch.empty(draws.shape)
    library.cermet_uniform(draws.ctypes.data, draws.size, out.data_ptr())
    return out


def chance(draws: Sequence[npt.NDArray[np.int16]], shares: Sequence[float]) -> Bits | None:
    """Which draws are below the share of their model."""
    library, n = kernels(), len(draws[0])
    if library is None:
        return None
    bits = _no_bits(len(draws) * n)
    for m, (drawn, share) in enumerate(zip(draws, shares, strict=True)):
        library.cermet_chance(drawn.ctypes.data, n, share, m * n, bits.ctypes.data)
    return Bits(bits, len(draws))


def drawn(states: Sequence[tuple[int, int]], shares: Sequence[float], n: int) -> Bits | None:
    """As `chance`, of the next n draws of generators in these states (`Stream.state`)."""
    library = kernels()
    if library is None or sys.byteorder != "little":
        return None
    bits, half = _no_bits(len(states) * n), (1 << 64) - 1
    for m, (pair, share) in enumerate(zip(states, shares, strict=True)):
        words = (ctypes.c_uint64 * 4)(*(w for x in pair for w in (x & half, x >> 64)))
        library.cermet_draw(words, n, share, m * n, bits.ctypes.data)
    return Bits(bits, len(states))


def packed(mask: torch.Tensor) -> npt.NDArray[np.uint8] | None:
    """The bits of a mask of ones and zeros, as `numpy.packbits` of it flat."""
    library = kernels()
    if library is None or not plain(mask):
        return None
    bits = _no_bits(mask.numel())
    library.cermet_pack(mask.data_ptr(), mask.numel(), bits.ctypes.data)
    return bits


def unpacked(bits: npt.NDArray[np.uint8], shape: torch.Size) -> torch.Tensor | None:
    """The mask of ones and zeros that bits tell."""
    library = kernels()
    if library is None:
        return None
    mask = torch.empty(shape)
    library.cermet_unpack(bits.ctypes.data, mask.numel(), mask.data_ptr())
    return mask
