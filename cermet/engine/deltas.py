"""The deltas of an adapter, read as if they were the tensors of a checkpoint."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cermet.checkpoints.adapters import Adapter
from cermet.checkpoints.header import TensorInfo
from cermet.checkpoints.lora import tile_rows
from cermet.engine.done import Done
from cermet.engine.target import Written, as_tensor
from cermet.maths.factors import Factors, balanced, truncated_product
from cermet.maths.lowrank import truncated
from cermet.recipes.adapters import AdapterTask

__all__ = ["Deltas", "ReducedTarget"]


class Deltas:
    """scale * B @ A of every module of a plan, block by block; zero where the adapter has none.

    Attributes
    ----------
    tensors: `<module>.weight` [out, in] and `<module>.bias` [out] in float32; none is in a file.

    A product is made on the device, in tiles of whole rows, whose height follows from its shape
    alone, so that any cut gives the same bits.
    """

    exact = False

    def __init__(self, adapter: Adapter, tasks: Sequence[AdapterTask], device: str) -> None:
        self._device = device
        self.path, self.adapter = adapter.path, adapter.files
        self.config: Mapping[str, Any] = {}
        self._modules = adapter.modules
        self.tensors: dict[str, TensorInfo] = {}
        self._module_of: dict[str, str] = {}
        for task in tasks:
            for end, shape in (("weight", task.like.shape), ("bias", task.like.shape[:1])):
                name = f"{task.module}.{end}"
                size = 4 * torch.Size(shape).numel()
                self.tensors[name] = TensorInfo(name, "F32", shape, Path(self.path), -1, size)
                self._module_of[name] = task.module
        self._held = threading.local()

    def block(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Elements [start, stop) of a row-major delta, 1-D, float32 and the caller's own."""
        module = self._modules.get(self._module_of[name])
        block = torch.zeros(stop - start, device=self._device)
        if module is None or stop <= start:
            return block
        if name.endswith(".bias"):
            if module.bias is not None:
                block += module.bias[start:stop].to(self._device, torch.float32) * module.scale
            return block
        outputs, columns = module.shape
        height = tile_rows(columns)
        a, b = self._factors(name)
        place = start
        while place < stop:
            top = place // columns // height * height
            tile = (b[top : min(top + height, outputs)] @ a).mul_(module.scale).view(-1)
            first = top * columns
            end = min(stop, first + len(tile))
            block[place - start : end - start] = tile[place - first : end - first]
            place = end
        return block

    def _factors(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """a and b of a tensor in float32; each thread keeps those of the last one."""
        if getattr(self._held, "name", None) != name:
            self._held.factors = self._modules[self._module_of[name]].matrices(self._device)
            self._held.name = name
        found: tuple[torch.Tensor, torch.Tensor] = self._held.factors
        return found


class ReducedTarget:
    """Takes the blocks of a merged delta; once it is whole, it is truncated to a rank and gone.

    It is held and truncated on a device. `done` gets its factors there, which say what is lost.
    """

    stored = "F32"

    @property
    def dtype(self) -> torch.dtype:
        """Always float32."""
        return torch.float32

    def __init__(
        self, shape: tuple[int, int], rank: int, device: str, done: Callable[[Factors], None]
    ) -> None:
        self.device = torch.device(device)
        self._shape, self._rank, self._done = shape, rank, done
        self._left = shape[0] * shape[1]
        self._flat = torch.empty(0)
        self._lock = threading.Lock()

    def put(self, start: int, block: Written) -> None:
        """Copy a finished block."""
        self._room()[start : start + len(block)] = as_tensor(block, self.dtype)

    def place(self, start: int) -> None:
        """None: it is in no file."""

    def wrote(self, start: int, nbytes: int) -> None:
        """Nothing is, anywhere else than in memory."""

    def view(self, start: int, stop: int) -> torch.Tensor:
        """A part of the delta, for methods that write across it."""
        return self._room()[start:stop]

    def _room(self) -> torch.Tensor:
        with self._lock:
            if not len(self._flat):
                self._flat = torch.empty(self._shape[0] * self._shape[1], device=self.device)
            return self._flat

    def finished(self, done: Done) -> None:
        """A piece of the delta has been written; with the last one, truncate."""
        with self._lock:
            self._left -= done.stop - done.start
            if self._left:
                return
        matrix, self._flat = self._flat.view(self._shape), torch.empty(0)
        left, right = truncated(matrix, self._rank)
        whole = float(torch.linalg.norm(matrix))
        lost = float(torch.linalg.norm(matrix.addmm_(left, right, alpha=-1.0)))
        own = truncated_product(left, right, self._rank)
        own = replace(own, lost=lost / whole if whole else 0.0)
        self._done(balanced(own, self._rank, matrix.dtype))
