"""Running a plan of adapters: every module's factors, or its deltas, into one adapter."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import torch

from cermet.checkpoints.dtypes import SIZES, TORCH
from cermet.checkpoints.reader import Checkpoint, MemoryCheckpoint
from cermet.checkpoints.writer import ShardWriter, Slot
from cermet.core.errors import BudgetError, MethodError, MismatchError, NonFiniteError
from cermet.core.fingerprint import digest_bytes
from cermet.core.noise import RESOLUTION, Stream
from cermet.core.registry import call
from cermet.engine.blocks import Input
from cermet.engine.deltas import Deltas, ReducedTarget
from cermet.engine.executors import Stage, Staged, one_thread
from cermet.engine.finite import refuse_non_finite
from cermet.engine.group import grouped
from cermet.engine.options import Options, executor_for
from cermet.engine.run import job_of
from cermet.engine.span import Cores, spans_of
from cermet.engine.target import MemoryTarget
from cermet.maths.factors import Factors
from cermet.recipes.adapters import AdapterPlan, AdapterTask, Whole
from cermet.recipes.plan import Task

__all__ = ["FileSink", "Made", "MemorySink", "merge_adapters_into", "slots_of_adapter"]


class Sink(Protocol):
    """Where finished tensors go."""

    def put(self, name: str, tensor: torch.Tensor) -> None:
        """Take a whole tensor, of its final dtype and shape, on the CPU."""


class MemorySink:
    """Keeps the tensors."""

    def __init__(self) -> None:
        self.tensors: dict[str, torch.Tensor] = {}

    def put(self, name: str, tensor: torch.Tensor) -> None:
        """Keep a tensor."""
        self.tensors[name] = tensor


class FileSink:
    """Writes them into the files of a writer."""

    def __init__(self, writer: ShardWriter) -> None:
        self._writer = writer

    def put(self, name: str, tensor: torch.Tensor) -> None:
        """Write a tensor."""
        self._writer.put(name, 0, tensor.reshape(-1))


@dataclass
class Made:
    """What a run has made, by module; digests by the names of tensors.

    scales: of the result. lost: shares of the norm of the merged deltas that a rank left out.
    """

    scales: dict[str, float] = field(default_factory=dict)
    lost: dict[str, float] = field(default_factory=dict)
    digests: dict[str, int] = field(default_factory=dict)


def slots_of_adapter(plan: AdapterPlan) -> list[Slot]:
    """Every tensor of the output: names, dtypes and shapes, known before anything is run."""
    slots = []
    for task in plan.tasks:
        for name, shape in zip(_names(plan, task), task.shapes, strict=True):
            slots.append(_slot(name, task.dtype, shape))
        if task.bias:
            slots.append(_slot(_bias_name(plan, task), task.dtype, task.like.shape[:1]))
    return slots + [_slot(_whole_name(plan, w), w.dtype, w.shape) for w in plan.whole]


def _slot(name: str, dtype: str, shape: tuple[int, ...]) -> Slot:
    return Slot(name, dtype, shape, SIZES[dtype] * torch.Size(shape).numel())


def _names(plan: AdapterPlan, task: AdapterTask) -> tuple[str, str]:
    return plan.adapters[0].names(task.module, task.like.kind)


def _bias_name(plan: AdapterPlan, task: AdapterTask) -> str:
    return f"{plan.adapters[0].prefix}{task.module}.lora_B.bias"


def _whole_name(plan: AdapterPlan, whole: Whole) -> str:
    """A module that has factors too lies inside of its wrapper, as PEFT sees it."""
    module, _, parameter = whole.name.rpartition(".")
    inside = ".base_layer" if any(t.module == module for t in plan.tasks) else ""
    return f"{plan.adapters[0].prefix}{module}{inside}.{parameter}"


def merge_adapters_into(
    plan: AdapterPlan,
    sink: Sink,
    options: Options,
    progress: Callable[[str, int], None] | None = None,
    only: frozenset[str] | None = None,
) -> Made:
    """Run a plan; the tensors go to a sink, which may be called from several threads.

    `only`: the modules to make, all by default. Raises NonFiniteError, BudgetError, MethodError.
    """
    _check_finite(plan)
    run = _Run(plan, sink, options, progress)
    tasks = [t for t in plan.tasks if only is None or t.module in only]
    with one_thread():
        if plan.method.on == "deltas":
            run.deltas(tasks)
        else:
            executor_for(_workers(plan, options)).run(_FactorJob(run, task) for task in tasks)
        if only is None:
            for whole in plan.whole:
                run.take(_whole_name(plan, whole), _whole(plan, whole), whole.dtype)
    return run.made


def _workers(plan: AdapterPlan, options: Options) -> int:
    """Threads that stay in the budget together; BudgetError where one does not."""
    if plan.method.on == "factors" and not plan.method.forms_deltas:
        return options.workers()
    if not plan.tasks:
        return options.workers()
    need, largest = max(((_need(plan, t), t) for t in plan.tasks), key=lambda pair: pair[0])
    if need > options.memory:
        raise BudgetError(
            f"The deltas of '{largest.module}' take {need / 1e6:,.3g} MB at once, but the budget "
            f"is {options.memory / 1e6:,.3g} MB. Give more with --memory."
        )
    return max(1, min(options.workers(), options.memory // need))


def _need(plan: AdapterPlan, task: AdapterTask) -> int:
    """Bytes that a module takes beside the blocks of the method; truncating is in float64."""
    rows, columns = task.like.shape
    if plan.in_span:
        high, wide = task.core
        each = 8 * len(task.members) + 128  # blocks count squares by the shape of the whole
        return each * high * wide + 40 * (rows * high + columns * wide)
    own = 12 * len(task.members) if plan.method.on == "factors" else 0
    return (24 + own) * rows * columns


def _check_finite(plan: AdapterPlan) -> None:
    """Refuse NaN and infinity, by adapter and tensor."""
    for held in {id(adapter): adapter for adapter in plan.adapters}.values():
        source = MemoryCheckpoint(held.path, {})
        for module, parts in held.modules.items():
            names = (*held.names(module, parts.kind), f"{held.prefix}{module}.lora_B.bias")
            for name, tensor in zip(names, (parts.a, parts.b, parts.bias), strict=True):
                if tensor is not None:
                    refuse_non_finite(Input(source, name), tensor.reshape(-1), 0)
        for name, tensor in held.replaced.items():
            if tensor.is_floating_point():
                refuse_non_finite(Input(source, name), tensor.reshape(-1), 0)


def _whole(plan: AdapterPlan, whole: Whole) -> torch.Tensor:
    """A tensor that one adapter has; the mean where several have different ones."""
    held = [plan.adapters[i].replaced[whole.name] for i in whole.owners]
    if all(torch.equal(held[0], other) for other in held[1:]):
        return held[0]
    if not held[0].is_floating_point():
        raise MismatchError(
            f"'{whole.name}' holds whole numbers that differ between the adapters, of which there "
            "is no mean."
        )
    return torch.stack([t.to(torch.float32) for t in held]).mean(dim=0)


class _Run:
    """What the jobs of one run share."""

    def __init__(
        self,
        plan: AdapterPlan,
        sink: Sink,
        options: Options,
        progress: Callable[[str, int], None] | None,
    ) -> None:
        self.plan, self.options, self.made = plan, options, Made()
        self._sink, self._progress, self._lock = sink, progress, threading.Lock()

    def take(self, name: str, tensor: torch.Tensor, dtype: str) -> None:
        """Round a finished tensor once, and pass it on."""
        wide = tensor.detach().to("cpu")
        rounded = wide.to(TORCH[dtype]).contiguous()
        if rounded.is_floating_point() and not bool(torch.isfinite(rounded).all()):
            raise NonFiniteError(
                f"Tensor '{name}' of the result leaves the range of {dtype}; choose another "
                "out_dtype, or smaller weights."
            )
        digest = digest_bytes(rounded.reshape(-1).view(torch.uint8).numpy(), 0)
        self._sink.put(name, rounded)
        with self._lock:
            self.made.digests[name] = digest
            if self._progress is not None:
                self._progress(name, rounded.nbytes)

    def factors(self, task: AdapterTask, found: Factors) -> None:
        """Take the factors of one module."""
        with self._lock:
            self.made.scales[task.module], self.made.lost[task.module] = found.scale, found.lost
        tensors = (found.a, found.b)
        for name, tensor, shape in zip(_names(self.plan, task), tensors, task.shapes, strict=True):
            self.take(name, tensor.reshape(shape), task.dtype)

    def bias(self, task: AdapterTask, bias: torch.Tensor) -> None:
        """Take the bias of one module's b, whose scale is the module's."""
        self.take(_bias_name(self.plan, task), bias, task.dtype)

    def deltas(self, tasks: list[AdapterTask]) -> None:
        """A method on deltas: merged block by block, truncated module by module."""
        plan, workers = self.plan, _workers(self.plan, self.options)
        device = self.options.device
        checkpoints = tuple(Deltas(adapter, plan.tasks, device) for adapter in plan.adapters)
        seed, biases = plan.recipe.seed, dict[str, torch.Tensor]()
        chosen = plan.tasks if plan.method.whole else tasks
        weights = self._in_span(chosen) if plan.in_span else self._whole(chosen, checkpoints)

        def bias_jobs() -> Iterator[Staged]:
            for task in (t for t in plan.tasks if t.bias):
                biases[task.module] = torch.empty(task.like.shape[0])
                target = MemoryTarget(biases[task.module])
                work = task.of_delta(plan.method, bias=True)
                yield job_of(work, checkpoints, target, self.options, seed=seed)

        executor_for(workers).run(grouped(weights))
        executor_for(workers).run(grouped(bias_jobs()))
        for task in tasks:
            if task.bias:
                self.bias(task, biases[task.module])

    def _whole(
        self, tasks: Sequence[AdapterTask], checkpoints: tuple[Deltas, ...]
    ) -> Iterator[Staged]:
        """Jobs on the deltas themselves."""
        for task in tasks:
            done, device = partial(self.factors, task), self.options.device
            target = ReducedTarget(task.like.shape, task.rank, device, done)
            yield self._weight(task.of_delta(self.plan.method), checkpoints, target)

    def _in_span(self, tasks: Sequence[AdapterTask]) -> Iterator[Staged]:
        """Jobs on their cores, whose place keeps the shape of the whole."""
        plan, device = self.plan, self.options.device
        spans = spans_of(plan, device)
        cores = tuple(Cores(plan, a, i, spans) for i, a in enumerate(plan.adapters))
        for task in tasks:
            done = spans[task.module].lifted(partial(self.factors, task))
            work = replace(task.of_delta(plan.method), shape=task.core)
            target = ReducedTarget(task.core, task.rank, device, done)
            yield self._weight(work, cores, target)

    def _weight(self, work: Task, sources: tuple[Checkpoint, ...], target: ReducedTarget) -> Staged:
        seed, finished = self.plan.recipe.seed, target.finished
        return job_of(work, sources, target, self.options, seed=seed, finished=finished)


class _FactorJob:
    """One module, by a method on factors."""

    together = False

    def __init__(self, run: _Run, task: AdapterTask) -> None:
        self.name, self._run, self._task = task.module, run, task

    @property
    def numel(self) -> int:
        """Elements of the delta."""
        return self._task.like.shape[0] * self._task.like.shape[1]

    def stages(self) -> Iterator[Stage]:
        """One stage of one piece."""
        yield [self._merge]

    def _merge(self) -> None:
        plan, task, device = self._run.plan, self._task, self._run.options.device
        held = [plan.adapters[i].modules[task.module] for i in task.members]
        given = [Factors(*m.matrices(device), m.scale) for m in held]
        known: Mapping[str, Any] = {
            **task.parameters,
            "rank": task.rank,
            "count": len(plan.adapters),
            "rslora": plan.adapters[0].config.rslora,
            "place": task.place,
            "noise": self._draws,
        }
        found = call(plan.method.function, given, **known)
        if not isinstance(found, Factors) or found.rank != task.rank:
            raise MethodError(
                f"'{plan.method.name}' must return Factors of rank {task.rank} for '{task.module}'."
            )
        self._run.factors(task, found)
        if task.bias:
            weights = task.parameters.get("weight", (1.0,) * len(held))
            parts = [torch.zeros(task.like.shape[0], device=device)]
            parts += [
                m.bias.to(device, torch.float32) * (w * m.scale / found.scale)
                for m, w in zip(held, weights, strict=True)
                if m.bias is not None
            ]
            self._run.bias(task, torch.stack(parts).sum(dim=0))

    def _draws(self, member: int, what: str, shape: tuple[int, ...]) -> torch.Tensor:
        """Uniform numbers in [0, 1), by seed, module, adapter and what they are for."""
        name = f"{self._task.module}.{what}"
        stream = Stream(self._run.plan.recipe.seed, name, self._task.members[member])
        drawn = torch.from_numpy(stream.draw(0, torch.Size(shape).numel()).astype("float32"))
        return drawn.div_(RESOLUTION).view(shape).to(self._run.options.device)
