"""What of deltas is kept, as the kernels take it: cuts, masks of bits, and how bits are drawn."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Union

import numpy as np
import numpy.typing as npt
import torch

from cermet.maths.native import compiled
from cermet.maths.native.compiled import kernels
from cermet.maths.native.memory import plain

__all__ = [
    "Bits",
    "Cuts",
    "Keep",
    "Kept",
    "chance",
    "drawn",
    "no_bits",
    "packed",
    "uniform",
    "unpacked",
    "varying",
]

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
    return Bits(no_bits(numel), 1, (threshold, until))


# as a string: torch is not imported for its name
Keep = Union[Cuts, Bits, "torch.Tensor", None]
"""What of the deltas is kept: what passes cuts (without what passes the second ones), what a
mask lets through (as a tensor float32 [models or 1, *block]), or all."""


class Kept:
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
        """What a kernel is given."""
        return ctypes.byref(self._kept)

    def used(self) -> None:
        """A kernel has gone over all elements."""
        if isinstance(self._held, Bits):
            self._held.above = None


def no_bits(count: int) -> npt.NDArray[np.uint8]:
    """Room for so many bits, all 0."""
    return np.zeros(-(-count // 8), np.uint8)


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
    bits = no_bits(len(draws) * n)
    for m, (drawn, share) in enumerate(zip(draws, shares, strict=True)):
        library.cermet_chance(drawn.ctypes.data, n, share, m * n, bits.ctypes.data)
    return Bits(bits, len(draws))


def drawn(states: Sequence[tuple[int, int]], shares: Sequence[float], n: int) -> Bits | None:
    """As `chance`, of the next n draws of generators in these states (`Stream.state`)."""
    library = kernels()
    if library is None or sys.byteorder != "little":
        return None
    bits, half = no_bits(len(states) * n), (1 << 64) - 1
    for m, (pair, share) in enumerate(zip(states, shares, strict=True)):
        words = (ctypes.c_uint64 * 4)(*(w for x in pair for w in (x & half, x >> 64)))
        library.cermet_draw(words, n, share, m * n, bits.ctypes.data)
    return Bits(bits, len(states))


def packed(mask: torch.Tensor) -> npt.NDArray[np.uint8] | None:
    """The bits of a mask of ones and zeros, as `numpy.packbits` of it flat."""
    library = kernels()
    if library is None or not plain(mask):
        return None
    bits = no_bits(mask.numel())
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
