"""Where the blocks of one output tensor go: a file, or memory."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from cermet.checkpoints.writer import ShardWriter

__all__ = ["MemoryTarget", "ShardTarget", "Target"]


class Target(Protocol):
    """One output tensor, seen flat."""

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def device(self) -> torch.device: ...

    def put(self, start: int, block: Tensor) -> None:
        """Write a finished 1-D block, of the output's dtype and device, from `start` on."""

    def view(self, start: int, stop: int) -> Tensor:
        """Elements [start, stop) in place, for methods that do not write along the tensor."""


class MemoryTarget:
    """A contiguous tensor in memory."""

    def __init__(self, tensor: Tensor) -> None:
        self.dtype, self.device = tensor.dtype, tensor.device
        self._flat = tensor.view(-1)

    def put(self, start: int, block: Tensor) -> None:
        """Copy a finished block into the tensor."""
        self._flat[start : start + len(block)] = block

    def view(self, start: int, stop: int) -> Tensor:
        """A slice of the tensor."""
        return self._flat[start:stop]


class ShardTarget:
    """One tensor of a shard writer."""

    def __init__(self, writer: ShardWriter, name: str) -> None:
        self.dtype, self.device = writer.dtype(name), torch.device("cpu")
        self._writer, self._name = writer, name

    def put(self, start: int, block: Tensor) -> None:
        """Write a finished block into the file."""
        self._writer.put(self._name, start, block)

    def view(self, start: int, stop: int) -> Tensor:
        """A part of the file, mapped."""
        return self._writer.view(self._name, start, stop)
