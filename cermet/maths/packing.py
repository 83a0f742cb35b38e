"""Small whole numbers in few bits each, one after another, the first in the lowest bits.

Bits are packed on the CPU, wherever the numbers are.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import UInt8

__all__ = ["pack", "packed_size", "unpack"]

_BYTE = 8


def packed_size(count: int, bits: int) -> int:
    """Bytes of `count` numbers of `bits` bits each."""
    return -(-count * bits // _BYTE)


def pack(codes: UInt8[torch.Tensor, "count"], bits: int) -> UInt8[torch.Tensor, "size"]:
    """Numbers below 2**bits (1 to 8) -> bytes on the CPU; bits beyond the last are zero."""
    if bits == _BYTE:
        return codes.to("cpu", copy=True)
    array = codes.cpu().numpy()
    if bits == 1:
        return torch.from_numpy(np.packbits(array, bitorder="little"))
    if _BYTE % bits == 0:
        each = _BYTE // bits
        padded = np.zeros(packed_size(len(array), bits) * each, np.uint8)
        padded[: len(array)] = array
        shifts = np.arange(0, _BYTE, bits, dtype=np.uint8)
        shifted = padded.reshape(-1, each) << shifts
        return torch.from_numpy(np.bitwise_or.reduce(shifted, axis=1))
    single = np.unpackbits(array[:, None], axis=1, count=bits, bitorder="little")
    return torch.from_numpy(np.packbits(single.reshape(-1), bitorder="little"))


def unpack(
    stored: UInt8[torch.Tensor, "size"], bits: int, count: int
) -> UInt8[torch.Tensor, "count"]:
    """What `pack` has made of `count` numbers -> the numbers, on the device of the bytes.

    ValueError for another size.
    """
    if len(stored) != packed_size(count, bits):
        raise ValueError(
            f"{count:,} numbers of {bits} bits take {packed_size(count, bits):,} bytes, not "
            f"{len(stored):,}"
        )
    return torch.from_numpy(_numbers(stored.cpu().numpy(), bits, count)).to(stored.device)


def _numbers(array: npt.NDArray[np.uint8], bits: int, count: int) -> npt.NDArray[np.uint8]:
    if bits == _BYTE:
        return array.copy()
    if bits == 1:
        return np.unpackbits(array, count=count, bitorder="little")
    if _BYTE % bits == 0:
        shifts = np.arange(0, _BYTE, bits, dtype=np.uint8)
        spread = (array[:, None] >> shifts) & np.uint8((1 << bits) - 1)
        return spread.reshape(-1)[:count]
    single = np.unpackbits(array, count=count * bits, bitorder="little").reshape(-1, bits)
    return np.packbits(single, axis=1, bitorder="little").reshape(-1)
