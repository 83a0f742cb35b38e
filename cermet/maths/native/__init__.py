"""The inner loops of merges in C, where a compiler is at hand: fewer passes, the same bits.

`kernels.c` is compiled once, on the machine that runs it, and kept in Cermet's cache. Where
that cannot be done (no compiler, another processor, CERMET_NATIVE=0) every caller runs its
torch code, which gives the same numbers to the last bit. What is asked for here comes as None
where it does not apply to what is given, and the caller goes on with torch.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cermet.maths.native import compiled
from cermet.maths.native.compiled import kernels

__all__ = [
    "Bits",
    "Bracketed",
    "Cuts",
    "Deltas",
    "Keep",
    "Statistic",
    "chance",
    "finished",
    "packed",
    "plain",
    "stored",
    "uniform",
    "unpacked",
]

_KINDS = {torch.float32: 0, torch.bfloat16: 1}
_STATISTICS = {"value": 0, "magnitude": 1, "variance": 2}
_MODELS = 64  # as in kernels.c
_LARGEST = float(np.finfo(np.float32).max)

Statistic = str
"""What order statistics are taken of: "value", "magnitude", or "variance" over the models."""

Cuts = Sequence[Sequence[tuple[float, int]]]
"""For each model its cuts: the threshold, and where values equal to it are no longer kept."""


@dataclass(frozen=True, slots=True)
class Bits:
    """A mask of ones and zeros of `rows` models (or of one for all), as bits end to end."""

    bits: npt.NDArray[np.uint8]
    rows: int


Keep = Cuts | Bits | Tensor | None
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


def plain(*tensors: Tensor) -> bool:
    """Whether tensors are float32 in this machine's memory, without gaps."""
    return all(t.dtype == torch.float32 and _here(t) for t in tensors)


def _here(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.is_contiguous()


def _narrow(values: Sequence[float]) -> bool:
    """Whether numbers are float32's; torch refuses others with an error of its own."""
    return all(abs(v) <= _LARGEST for v in values)


def _floats(values: Sequence[float]) -> Any:
    return (ctypes.c_float * len(values))(*values)


def _magnitude(bits: int) -> float:
    return float(np.array(bits, np.uint32).view(np.float32))


def stored(models: Sequence[Tensor], base: Tensor | None = None) -> Deltas | None:
    """Tensors of one shape as the kernels take them, flat, and the base to subtract of them."""
    library = kernels()
    given = models if base is None else (*models, base)
    kinds = {t.dtype for t in given}
    if library is None or len(kinds) != 1 or not 0 < len(models) <= _MODELS:
        return None
    kind = _KINDS.get(kinds.pop())
    if kind is None or not all(map(_here, given)):
        return None
    return Deltas(library, tuple(models), base, kind)


class Deltas:
    """Models as they are stored, minus their base if there is one: never in memory as a whole."""

    def __init__(
        self, library: Any, models: tuple[Tensor, ...], base: Tensor | None, kind: int
    ) -> None:
        self._library, self._held = library, (models, base)  # held while their memory is read
        self.count, self.numel = len(models), models[0].numel()
        self._origin = (ctypes.c_void_p * len(models))(*(t.data_ptr() for t in models))
        self._given = compiled.Stored(
            len(models), ctypes.addressof(self._origin),
            None if base is None else base.data_ptr(), kind, self.numel,
        )  # fmt: skip

    @property
    def _self(self) -> Any:
        return ctypes.byref(self._given)

    def made(self) -> tuple[Tensor, Tensor, float]:
        """The deltas float32 [models, n], the base [n] (empty without one), the largest |delta|."""
        deltas = torch.empty(self.count, self.numel)
        wide = torch.empty(self.numel if self._given.base else 0)
        most = self._library.cermet_deltas(self._self, deltas.data_ptr(), wide.data_ptr())
        return deltas, wide, _magnitude(most)

    def summed(
        self, factors: Sequence[float], keep: Keep, dtype: torch.dtype
    ) -> tuple[Tensor, float] | None:
        """base + Σ fᵢδᵢ of what is kept, rounded once [n], and the largest |delta|."""
        into = _KINDS.get(dtype)
        if into is None or not _narrow(factors):
            return None
        out = torch.empty(self.numel, dtype=dtype)
        kept = _Kept(keep)
        most = self._library.cermet_sum(
            self._self, kept.given, _floats(factors), out.data_ptr(), into
        )
        return out, _magnitude(most)

    def elected(
        self,
        factors: Sequence[float],
        shares: Sequence[float],
        keep: Keep,
        dtype: torch.dtype,
        *,
        plain: bool,
        normalize: bool,
        scale: float,
    ) -> tuple[Tensor, float] | None:
        """base + `scale` times what agrees with the elected sign, and the largest |delta|.

        `plain`: the sign is that of the sum of the deltas themselves, not of the weighted ones.
        """
        into = _KINDS.get(dtype)
        if into is None or not _narrow([*factors, *shares, scale]):
            return None
        out = torch.empty(self.numel, dtype=dtype)
        kept = _Kept(keep)
        most = self._library.cermet_elect(
            self._self, kept.given, _floats(factors), _floats(shares),
            plain, normalize, scale, out.data_ptr(), into,
        )  # fmt: skip
        return out, _magnitude(most)

    def variance(self) -> Tensor:
        """Population variance over the models: [n]."""
        found = torch.empty(self.numel)
        self._library.cermet_variance(self._self, found.data_ptr())
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
            self._self, _STATISTICS[statistic], leaf, len(brackets), looks
        )
        told = []
        for seen, (top, inside, bottom), values in zip(looks, counts.tolist(), kept, strict=True):
            values = values[: seen.taken].copy()
            told.append(Bracketed(seen.above, seen.nonzero, top, inside, bottom, values))
        return told, _magnitude(most)

    def norms(self, keep: Keep, power: int, leaf: int, *, before: bool) -> tuple[Tensor, float]:
        """Sums of |delta|ᵖ over leaves, and of what is kept of it: float32 [2, models, leaves];
        zeros instead of the first without `before`. And the largest |delta|.
        """
        found = torch.zeros(2, self.count, -(-self.numel // leaf))
        kept = _Kept(keep)
        most = self._library.cermet_norms(
            self._self, kept.given, power, before, leaf, found.data_ptr()
        )
        return found, _magnitude(most)

    def gram(self, leaf: int) -> tuple[Tensor, float]:
        """Inner products over leaves, float32 [models, models, leaves]; the largest |delta|."""
        pairs = [(i, j) for i in range(self.count) for j in range(i, self.count)]
        found = torch.empty(len(pairs), -(-self.numel // leaf))
        most = self._library.cermet_gram(self._self, leaf, found.data_ptr())
        gram = torch.empty(self.count, self.count, found.shape[1])
        for (i, j), products in zip(pairs, found, strict=True):
            gram[i, j] = gram[j, i] = products
        return gram, _magnitude(most)

    def above(self, threshold: float, end: int) -> Bits:
        """Where the variance passes a threshold, before `end` where it reaches it."""
        bits = _no_bits(self.numel)
        self._library.cermet_above(self._self, threshold, end, bits.ctypes.data)
        return Bits(bits, 1)

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
            ordered = np.empty((self.numel // columns, columns + 2), np.float32)
            self._library.cermet_bounded(self._self, m, columns, ordered.ctypes.data)
            ordered.sort()
            self._library.cermet_ranked(
                self._self, m, columns, ordered.ctypes.data, drawn.ctypes.data,
                share - half, 2 * half / (columns - 1), first, bits.ctypes.data,
            )  # fmt: skip
        return Bits(bits, self.count)


class _Kept:
    """`compiled.Kept`, and the memory that it points to."""

    def __init__(self, keep: Keep) -> None:
        kept = compiled.Kept()
        self._held: Any = keep
        if isinstance(keep, Bits):
            kept.masks, kept.bits = keep.rows, keep.bits.ctypes.data
        elif isinstance(keep, Tensor):
            kept.masks, kept.mask = len(keep), keep.data_ptr()
        elif keep is not None:
            flat = [cut for cuts in keep for cut in cuts]
            above = np.array([value for value, _ in flat], np.float32)
            inclusive = np.nextafter(above, np.float32(-np.inf))
            ends = np.array([end for _, end in flat], np.int64)
            self._held = (above, inclusive, ends)
            kept.cuts = len(keep[0])
            kept.above, kept.inclusive = above.ctypes.data, inclusive.ctypes.data
            kept.end = ends.ctypes.data
        self._kept = kept

    @property
    def given(self) -> Any:
        return ctypes.byref(self._kept)


def _no_bits(count: int) -> npt.NDArray[np.uint8]:
    return np.zeros(-(-count // 8), np.uint8)


def finished(merged: Tensor, base: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """merged + base, rounded once to `dtype`: flat [n]."""
    library, into = kernels(), _KINDS.get(dtype)
    given = (merged,) if base is None else (merged, base)
    if library is None or into is None or not plain(*given):
        return None
    out = torch.empty(merged.numel(), dtype=dtype)
    plus = None if base is None else base.data_ptr()
    library.cermet_finish(merged.data_ptr(), plus, merged.numel(), out.data_ptr(), into)
    return out


def uniform(draws: npt.NDArray[np.int16]) -> Tensor | None:
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


def packed(mask: Tensor) -> npt.NDArray[np.uint8] | None:
    """The bits of a mask of ones and zeros, as `numpy.packbits` of it flat."""
    library = kernels()
    if library is None or not plain(mask):
        return None
    bits = _no_bits(mask.numel())
    library.cermet_pack(mask.data_ptr(), mask.numel(), bits.ctypes.data)
    return bits


def unpacked(bits: npt.NDArray[np.uint8], shape: torch.Size) -> Tensor | None:
    """The mask of ones and zeros that bits tell."""
    library = kernels()
    if library is None:
        return None
    mask = torch.empty(shape)
    library.cermet_unpack(bits.ctypes.data, mask.numel(), mask.data_ptr())
    return mask
