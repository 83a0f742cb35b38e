"""Signs at few places of a run, in about as many bits as their entropy: Golomb-Rice coding.

The gaps between the places are geometrically distributed where each is taken with the same
chance, and for those a Rice code is within a few hundredths of a bit of the best code there is.
A gap g is written as g >> b zeros and a one, and b bits that hold the rest; the b that makes the
run shortest is used. The layout of a run: b (1 byte), the number of places and the bytes of the
zeros and ones (4 bytes each, lowest first), the zeros and ones, the rests, the signs (1 for minus).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int8, UInt8

from cermet.maths.packing import packed_size

__all__ = ["decode_ternary", "encode_ternary", "entropy"]

_HEAD = 9  # bytes before the code
_WIDEST = 30  # bits of a rest at most; a run has fewer elements than that can count

_Bits = npt.NDArray[np.uint8]


def entropy(density: float) -> float:
    """Bits for each element of signs at a share `density` of random places: H(d) + d."""
    if not 0 < density < 1:
        return density
    return density - density * math.log2(density) - (1 - density) * math.log2(1 - density)


def encode_ternary(values: Int8[torch.Tensor, "count"]) -> UInt8[torch.Tensor, "size"]:
    """-1, 0 and 1 -> a run of bytes, on the CPU."""
    array = values.cpu().numpy()
    places = np.flatnonzero(array)
    gaps = np.diff(places, prepend=-1) - 1
    width = _best_width(gaps)
    ends = np.cumsum((gaps >> width) + 1)
    unary = np.zeros(int(ends[-1]) if len(ends) else 0, np.uint8)
    unary[ends - 1] = 1
    code = _packed(unary)
    rests = (gaps[:, None] >> np.arange(width)) & 1
    head = np.array([len(places), len(code)], "<u4").view(np.uint8)
    signs = (array[places] < 0).astype(np.uint8)
    parts = [np.array([width], np.uint8), head, code, _packed(rests.astype(np.uint8)),
             _packed(signs)]  # fmt: skip
    return torch.from_numpy(np.concatenate(parts))


def decode_ternary(stored: UInt8[torch.Tensor, "size"], count: int) -> Float[torch.Tensor, "count"]:
    """A run of bytes -> its -1, 0 and 1, on the device of the bytes.

    ValueError where it is none of `count` elements.
    """
    array = stored.cpu().numpy()
    if len(array) < _HEAD:
        raise ValueError("a run is cut short")
    width = int(array[0])
    kept, length = (int(n) for n in array[1:_HEAD].copy().view("<u4"))
    sizes = length, packed_size(kept * width, 1), packed_size(kept, 1)
    if width > _WIDEST or kept > count or len(array) != _HEAD + sum(sizes):
        raise ValueError("a run has another length than its head says")
    code, rests, signs = np.split(array[_HEAD:], np.cumsum(sizes)[:2])
    ends = np.flatnonzero(np.unpackbits(code, bitorder="little"))
    if len(ends) != kept:
        raise ValueError("a run holds another number of places than its head says")
    low = np.unpackbits(rests, count=kept * width, bitorder="little").reshape(kept, width)
    high = np.diff(ends, prepend=-1) - 1
    gaps = (high << width) + (low.astype(np.int64) << np.arange(width)).sum(axis=1)
    places = np.cumsum(gaps + 1) - 1
    if kept and places[-1] >= count:
        raise ValueError("a run names places beyond its end")
    found = np.zeros(count, np.float32)
    found[places] = 1.0 - 2.0 * np.unpackbits(signs, count=kept, bitorder="little")
    return torch.from_numpy(found).to(stored.device)


def _packed(bits: _Bits) -> _Bits:
    return np.packbits(bits.reshape(-1), bitorder="little")


def _best_width(gaps: npt.NDArray[np.int64]) -> int:
    """The number of low bits for which the code is shortest; the smallest of equals."""
    if len(gaps) == 0:
        return 0
    widths = range(min(_WIDEST, int(gaps.max()).bit_length()) + 1)
    return min(widths, key=lambda b: (int((gaps >> b).sum()) + b * len(gaps), b))
