"""The deltas of adapters in the space that all of them span: small cores, and the way back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cermet.checkpoints.adapters import Adapted, Adapter
from cermet.checkpoints.header import TensorInfo
from cermet.maths.factors import Factors, Spanned, spanned
from cermet.recipes.adapters import AdapterPlan

__all__ = ["Cores", "Span", "spans_of"]


class Span:
    """The deltas of one module as Q Xᵢ Pᵀ, with orthonormal Q [out, p] and P [in, q] for all.

    Attributes
    ----------
    shape: [p, q] of the cores Xᵢ: the sum of the ranks, or less where a side is shorter.

    It is made when a core is first asked for, on the thread of the job and its device, and dropped
    when the merged core has been taken back: a run holds those of the jobs that are under way.
    """

    def __init__(self, held: Sequence[Adapted | None], shape: tuple[int, int], device: str) -> None:
        self._held, self.shape, self._device = tuple(held), shape, device
        self._made: Spanned | None = None
        self._lock = threading.Lock()

    def core(self, number: int) -> torch.Tensor:
        """X of one adapter, float32 [p, q]; zero where it lacks the module."""
        return self._spanned().cores[number]

    def lifted(self, done: Callable[[Factors], None]) -> Callable[[Factors], None]:
        """What takes the factors of the merged core, and passes on those of the delta."""

        def lift(core: Factors) -> None:
            made = self._spanned()
            a = (core.a.double() @ made.inner.t()).to(core.a.dtype)
            b = (made.outer @ core.b.double()).to(core.b.dtype)
            with self._lock:
                self._made = None
            done(replace(core, a=a, b=b))

        return lift

    def _spanned(self) -> Spanned:
        with self._lock:
            if self._made is None:
                self._made = spanned([_factors(m, self._device) for m in self._held])
            return self._made


def _factors(module: Adapted | None, device: str) -> Factors | None:
    return None if module is None else Factors(*module.matrices(device), module.scale)


def spans_of(plan: AdapterPlan, device: str) -> dict[str, Span]:
    """The span of every module, by its name."""
    return {
        task.module: Span([a.modules.get(task.module) for a in plan.adapters], task.core, device)
        for task in plan.tasks
    }


class Cores:
    """The cores of one adapter, read as if they were the tensors of a checkpoint.

    Attributes
    ----------
    tensors: `<module>.weight` [p, q] in float32; none is in a file.
    """

    exact = False

    def __init__(
        self, plan: AdapterPlan, adapter: Adapter, number: int, spans: Mapping[str, Span]
    ) -> None:
        self.path, self.adapter = adapter.path, adapter.files
        self.config: Mapping[str, Any] = {}
        self._number = number
        self._spans = {task.place.name: spans[task.module] for task in plan.tasks}
        self.tensors: dict[str, TensorInfo] = {
            name: TensorInfo(
                name, "F32", span.shape, Path(self.path), -1, 4 * torch.Size(span.shape).numel()
            )
            for name, span in self._spans.items()
        }

    def block(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Elements [start, stop) of a row-major core, 1-D, float32."""
        return self._spans[name].core(self._number).view(-1)[start:stop]
