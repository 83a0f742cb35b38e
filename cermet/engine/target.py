"""Where the blocks of one output tensor go: a file, or memory."""

from __future__ import annotations

from typing import Any, Protocol, Union

import numpy as np
import numpy.typing as npt
import torch

from cermet.checkpoints.dtypes import NAMES
from cermet.checkpoints.writer import ShardWriter
from cermet.maths import native

__all__ = ["Landed", "MemoryTarget", "ShardTarget", "Target", "Written", "as_tensor"]


# as a string: torch is not imported for its name
Written = Union["torch.Tensor", npt.NDArray[Any]]
"""A finished block: a tensor, or its bytes as the compiled kernels have made them."""

Landed = Written | native.Wrote
"""A finished block, or what has been written of it to its place already."""


def as_tensor(block: Written, dtype: torch.dtype) -> torch.Tensor:
    """A finished block of a dtype as a tensor, without a copy."""
    return torch.from_numpy(block).view(dtype) if isinstance(block, np.ndarray) else block


class Target(Protocol):
    """One output tensor, seen flat; `stored` is its dtype as files spell it."""

    @property
    def stored(self) -> str: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def device(self) -> torch.device: ...

    def put(self, start: int, block: Written) -> None:
        """Write a finished 1-D block of the output's dtype from `start` on."""

    def place(self, start: int) -> native.Place | None:
        """Where in a file the elements from `start` on go, for what writes there itself."""

    def wrote(self, start: int, nbytes: int) -> None:
        """So many bytes from element `start` on have been written at their place."""

    def view(self, start: int, stop: int) -> torch.Tensor:
        """Elements [start, stop) in place, for methods that do not write along the tensor."""


class MemoryTarget:
    """A contiguous tensor in memory."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.dtype, self.device = tensor.dtype, tensor.device
        self.stored = NAMES[tensor.dtype]
        self._flat = tensor.view(-1)

    def put(self, start: int, block: Written) -> None:
        """Copy a finished block into the tensor."""
        self._flat[start : start + len(block)] = as_tensor(block, self.dtype)

    def place(self, start: int) -> None:
        """None: it is in no file."""

    def wrote(self, start: int, nbytes: int) -> None:
        """Nothing is, anywhere else than in memory."""

    def view(self, start: int, stop: int) -> torch.Tensor:
        """A slice of the tensor."""
        return self._flat[start:stop]


class ShardTarget:
    """One tensor of a shard writer."""

    def __init__(self, writer: ShardWriter, name: str) -> None:
        self._writer, self._name = writer, name

    @property
    def stored(self) -> str:
        """The dtype as the file's header spells it."""
        return self._writer.plan.slots[self._name].dtype

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the tensor."""
        return self._writer.dtype(self._name)

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    def put(self, start: int, block: Written) -> None:
        """Write a finished block into the file."""
        self._writer.put(self._name, start, block)

    def place(self, start: int) -> native.Place:
        """Where in the file the elements from `start` on go."""
        return native.Place(*self._writer.place(self._name, start))

    def wrote(self, start: int, nbytes: int) -> None:
        """Let the disk begin with what has been written."""
        self._writer.wrote(self._name, start, nbytes)

    def view(self, start: int, stop: int) -> torch.Tensor:
        """A part of the file, mapped."""
        return self._writer.view(self._name, start, stop)
