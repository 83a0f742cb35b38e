"""Memory that the kernels work on: which dtypes they know, and where numbers lie."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple, Union

import numpy as np
import numpy.typing as npt
import torch

from cermet.core.fingerprint import lane_constants
from cermet.maths.native.compiled import kernels

__all__ = [
    "HELD",
    "KINDS",
    "Floats",
    "Memory",
    "Place",
    "Room",
    "address",
    "digest",
    "finished",
    "floats",
    "here",
    "kind_of",
    "lanes",
    "magnitude",
    "plain",
]

KINDS = {"F32": 0, "BF16": 1}
"""The dtypes that the kernels read and write, as files spell them -> their number in stored.h."""

HELD = (np.float32, np.uint16)
"""What NumPy holds numbers of a kind as."""

Memory = npt.NDArray[Any]
"""Numbers as they are stored: float32 or bfloat16, or the bits of either as integers."""

Floats = npt.NDArray[np.float32]

Room = Union["torch.Tensor", Memory]
"""Memory that is to be filled."""


class Place(NamedTuple):
    """Where numbers stand: the descriptor of an open file, a byte in it, what to call the file."""

    file: int
    at: int
    name: str


def plain(*tensors: torch.Tensor) -> bool:
    """Whether tensors are float32 in this machine's memory, without gaps."""
    return all(t.dtype == torch.float32 and here(t) for t in tensors)


def here(tensor: torch.Tensor) -> bool:
    """Whether a tensor lies in this machine's memory, without gaps."""
    return tensor.device.type == "cpu" and tensor.is_contiguous()


@cache
def lanes() -> int:
    """Where the constants of digests lie."""
    return int(lane_constants().ctypes.data)


def digest(data: Memory, offset: int) -> int | None:
    """As `digest_bytes`, of numbers without gaps."""
    library = kernels()
    if library is None or not data.flags.c_contiguous:
        return None
    return int(library.cermet_digest(data.ctypes.data, data.nbytes, offset, lanes()))


def floats(values: Sequence[float]) -> Any:
    """Numbers as an array of C."""
    return (ctypes.c_float * len(values))(*values)


def magnitude(bits: int) -> float:
    """The number that the bits of a float32 are."""
    value: float = struct.unpack("=f", struct.pack("=I", bits))[0]
    return value


def address(room: Room) -> int:
    """Where memory begins."""
    return int(room.ctypes.data) if isinstance(room, np.ndarray) else room.data_ptr()


def kind_of(dtype: torch.dtype) -> int | None:
    """The number of a dtype in stored.h, None where the kernels do not take it."""
    return {torch.float32: 0, torch.bfloat16: 1}.get(dtype)


def finished(
    merged: torch.Tensor, base: torch.Tensor | None, dtype: torch.dtype
) -> torch.Tensor | None:
    """merged + base, rounded once to `dtype`: flat [n]."""
    library, into = kernels(), kind_of(dtype)
    given = (merged,) if base is None else (merged, base)
    if library is None or into is None or not plain(*given):
        return None
    out = torch.empty(merged.numel(), dtype=dtype)
    plus = None if base is None else base.data_ptr()
    library.cermet_finish(merged.data_ptr(), plus, merged.numel(), out.data_ptr(), into)
    return out
