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
from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt

__all__ = ["digest_bytes", "digest_hex", "lane_constants", "sha256_hex"]

_LANES = 16_384  # lanes of one row of constants: 128 KiB of data
_MASK = (1 << 64) - 1


@cache
def lane_constants() -> npt.NDArray[np.uint64]:
    """What the lanes of a row are multiplied by."""
    words = np.random.Philox(key=0xCE12_4E7).random_raw(_LANES)
    return np.asarray(words, dtype=np.uint64) | np.uint64(1)


@lru_cache(maxsize=1 << 16)
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
    lanes, lane = data.view(np.uint64), offset // 8
    lead = min(-lane % _LANES, lanes.size)  # lanes that end a row
    rows, tail = divmod(lanes.size - lead, _LANES)
    row = -(-lane // _LANES)
    total = _ragged(lanes[:lead], lane) + _ragged(lanes[lanes.size - tail :], (row + rows) * _LANES)
    whole = lanes[lead : lanes.size - tail].reshape(rows, _LANES)
    # einsum has vector instructions for integers, which dot lacks.
    sums: list[int] = np.einsum("rl,l->r", whole, lane_constants()).tolist()
    total += sum(part * _row_constant(r) for r, part in enumerate(sums, row))
    return total & _MASK


def _ragged(lanes: npt.NDArray[np.uint64], lane: int) -> int:
    """What lanes add that lie in one row, of which the first is the `lane`-th of the tensor."""
    if not lanes.size:
        return 0
    row, column = divmod(lane, _LANES)
    part = np.einsum("l,l->", lanes, lane_constants()[column : column + lanes.size])
    return int(part) * _row_constant(row)


def digest_hex(parts: int, nbytes: int) -> str:
    """A tensor's digest as text: the sum of its partial digests and its length in bytes."""
    return f"{parts & _MASK:016x}-{nbytes:x}"


def sha256_hex(data: bytes) -> str:
    """SHA-256 of something small, such as a header or a recipe, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()
