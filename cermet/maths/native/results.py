"""Where kernels put what they have made: into memory, or straight into a file."""

from __future__ import annotations

import ctypes
import os
from typing import Any, NamedTuple

import numpy as np

from cermet.maths.native import compiled
from cermet.maths.native.memory import HELD, Place, Room, address, lanes

__all__ = ["Into", "Out", "Wrote"]

_SLICE = 1 << 17  # bytes, as in result.h

Out = Room | Place
"""Memory that is to be filled, or the place in a file that is to be written."""


class Wrote(NamedTuple):
    """What has been put into a file: what it adds to the digest of its tensor, its bytes."""

    digest: int
    nbytes: int


class Into:
    """`compiled.Result`, and the memory that it points to.

    kind: of the numbers, as in stored.h; numel: how many there will be; first: which element of
    its tensor the first of them is.
    """

    def __init__(self, out: Out, kind: int, numel: int, first: int) -> None:
        self._held: Any = out
        if not isinstance(out, Place):
            self._result = compiled.Result(address(out), kind, numel, file=-1)
            return
        chunk = min(_SLICE // np.dtype(HELD[kind]).itemsize, numel)
        self._held = room = np.empty(chunk, HELD[kind])
        self._result = compiled.Result(
            room.ctypes.data, kind, chunk, 0, out.file, out.at, first, lanes()
        )

    @property
    def given(self) -> Any:
        """What a kernel is given."""
        return ctypes.byref(self._result)

    def used(self) -> int:
        """The digest of what a kernel has written to a file, else 0; OSError where it could not."""
        if self._result.failed:
            raise OSError(self._result.failed, os.strerror(self._result.failed))
        return int(self._result.digest)
