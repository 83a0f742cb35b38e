"""Digests that keep up with memory: of a tensor's bytes, of a header, of a recipe.

A merge reads and writes gigabytes a second, which no cryptographic hash follows. A
tensor's digest is therefore a universal hash: its bytes are read as 64-bit lanes, each
lane is multiplied by an odd constant of its own, and the products are added modulo
2**64. A change in a single lane is always seen; any other damage goes unseen with a
chance of about 2**-63. Sums can be added in any order, so the digest does not depend on
how the tensor was cut. It guards against accidents, not against forgery.
"""

from __future__ import annotations

import hashlib
from functools import cache

import numpy as np
import numpy.typing as npt

__all__ = ["digest_bytes", "digest_hex", "sha256_hex"]

_LANES = 16_384  # lanes of one row of constants: 128 KiB of data
_MASK = (1 << 64) - 1


@cache
def _lane_constants() -> npt.NDArray[np.uint64]:
    words = np.random.Philox(key=0xCE12_4E7).random_raw(_LANES)
    return np.asarray(words, dtype=np.uint64) | np.uint64(1)


def _row_constant(row: int) -> int:
    """An odd constant for each row of lanes (splitmix64 of its index)."""
    z = (row + 1) * 0x9E3779B97F4A7C15 & _MASK
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _MASK
    return (z ^ (z >> 31)) | 1


def digest_bytes(data: npt.NDArray[np.uint8], offset: int) -> int:
    """Partial digest of `data`, which starts `offset` bytes into its tensor.

    Partial digests of the pieces of a tensor add up, modulo 2**64, to its digest.
    """
    lead = offset % 8
    if lead or data.size % 8:
        padded = np.zeros(-(-(lead + data.size) // 8) * 8, dtype=np.uint8)
        padded[lead : lead + data.size] = data
        data, offset = padded, offset - lead
    lanes = data.view(np.uint64)
    constants = _lane_constants()
    total, begin, lane = 0, 0, offset // 8
    while begin < lanes.size:
        row, column = divmod(lane, _LANES)
        count = min(_LANES - column, lanes.size - begin)
        part = np.dot(lanes[begin : begin + count], constants[column : column + count])
        total += int(part) * _row_constant(row)
        begin, lane = begin + count, lane + count
    return total & _MASK


def digest_hex(parts: int, nbytes: int) -> str:
    """A tensor's digest as text: the sum of its partial digests and its length in bytes."""
    return f"{parts & _MASK:016x}-{nbytes:x}"


def sha256_hex(data: bytes) -> str:
    """SHA-256 of something small, such as a header or a recipe, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()
