"""Running a plan: jobs out of tasks, a journal, and a folder that appears when it is whole."""

from __future__ import annotations

import hashlib
import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cermet.checkpoints.dtypes import FLOATS, SIZES
from cermet.checkpoints.reader import Checkpoint
from cermet.checkpoints.writer import Layout, ShardWriter, Slot, layout
from cermet.core.cover import grain_of
from cermet.core.errors import DiskError
from cermet.core.later import now
from cermet.core.registry import call
from cermet.core.types import Role
from cermet.engine.blocks import Input
from cermet.engine.copy import CopyJob
from cermet.engine.done import Done
from cermet.engine.executors import one_thread
from cermet.engine.folder import OutputFolder
from cermet.engine.geometry import geometry
from cermet.engine.group import grouped
from cermet.engine.job import Job
from cermet.engine.journal import Journal
from cermet.engine.memory import (
    MemoryGauge,
    block_elements,
    keep_freed_memory,
)
from cermet.engine.options import Options, executor_into_files
from cermet.engine.parts import PartsOut
from cermet.engine.target import ShardTarget, Target
from cermet.maths.native.compiled import kernels
from cermet.recipes.assembly import labels_of, slots_of
from cermet.recipes.plan import Named, Plan, Task

__all__ = [
    "PARTS",
    "Finished",
    "job_of",
    "merge_plan",
    "parts_layout",
    "plan_layout",
]

PARTS = "parts"
"""What the names of the files begin with that hold the experts' parts of an assembly."""


@dataclass(frozen=True)
class Finished:
    """What a run has done.

    seconds: of the merge itself; sync_seconds: waiting for the disk afterwards.
    digests: task name -> partial digests of output and inputs, added up.
    parts: the files of what is kept of each expert. part_digests: by the names in them.
    continued: what one more expert needs to know of this merge, where the method tells.
    """

    out: Path
    layout: Layout
    seconds: float
    sync_seconds: float
    resumed_pieces: int
    peak_bytes: int
    digests: Mapping[str, tuple[int, list[int]]] = field(default_factory=dict)
    parts: Layout | None = None
    part_digests: Mapping[str, int] = field(default_factory=dict)
    continued: Mapping[str, float] = field(default_factory=dict)


def plan_layout(plan: Plan, shard_size: int) -> Layout:
    """The weight files of a plan's output."""
    return layout([Slot(t.name, t.dtype, t.shape, t.nbytes) for t in plan.tasks], shard_size)


def parts_layout(plan: Plan, shard_size: int) -> Layout | None:
    """The files of what a plan leaves of each expert; None where that is nothing."""
    labels = labels_of(plan)
    slots = [
        Slot(s.name, s.dtype, s.shape, SIZES[s.dtype] * math.prod(s.shape))
        for task in plan.tasks
        for s in slots_of(task, labels)
    ]
    return layout(slots, shard_size, PARTS) if slots else None


def job_of(
    task: Task,
    checkpoints: tuple[Checkpoint, ...],
    target: Target,
    options: Options,
    *,
    seed: int = 0,
    compute: str | None = None,
    skip: frozenset[int] = frozenset(),
    finished: Callable[[Done], None] | None = None,
    noise: torch.Tensor | None = None,
    parts: PartsOut | None = None,
) -> Job | CopyJob:
    """The work on one task."""

    def given(named: Named) -> Input:
        return Input(checkpoints[named.model], named.tensor)

    inputs = [given(n) for n in task.sources]
    if task.method is None:
        finite = task.dtype in FLOATS and task.place.role is not Role.BUFFER
        return CopyJob(
            task.name, task.numel, inputs, target, finite=finite, skip=skip, finished=finished
        )
    job = Job(
        task.name,
        task.shape,
        task.method,
        inputs,
        given(task.base) if task.base is not None else None,
        task.parameters,
        target,
        minus=[given(m) if m is not None else None for m in task.minus],
        needs={name: [given(n) for n in named] for name, named in task.needs.items()},
        seed=seed,
        noise=noise,
        dtype=compute,
        device=options.device,
        place=task.place,
        block=options.block or block_of(task, options),
        # where all tensors are under way at once, their masks together would have no bound
        cache=0 if task.method.whole else options.memory // (4 * options.workers()),
        skip=skip,
        finished=finished,
        parts=parts,
    )
    if options.block is None and job.light:
        job.recut(block_of(task, options, whole=True))  # what Python does for a block adds up
    return job


def parts_out(
    task: Task, labels: Sequence[str], target: Callable[[str], Target]
) -> PartsOut | None:
    """Where the parts of a task go, `target` by the names that they have; None without any."""
    slots = slots_of(task, labels)
    return PartsOut(slots, [target(slot.name) for slot in slots]) if slots else None


def block_of(task: Task, options: Options, *, whole: bool = False) -> int:
    """Elements of a task's blocks under the budget; BudgetError where none fits.

    `whole`: whether they may be as large as pieces, which on a GPU they always may.
    """
    assert task.method is not None
    models = len(task.sources)
    grain = grain_of(task.method, place=task.place, count=models, **task.parameters)
    unit = geometry(task.shape, grain, 1).unit
    return block_elements(
        task.method, models, unit, options.memory, options.workers(), task.name,
        whole=whole or options.device != "cpu", place=task.place, parameters=task.parameters,
    )  # fmt: skip


def fingerprint(plan: Plan, layouts: Sequence[Layout], device: str) -> str:
    """What a journal is valid for: the same tasks on the same files, into the same files."""
    known: dict[Path, tuple[int, int]] = {}
    for checkpoint in plan.checkpoints:
        for file in {*(t.file for t in checkpoint.tensors.values()), *checkpoint.adapter}:
            if file.is_file():
                stat = file.stat()
                known[file] = (stat.st_size, stat.st_mtime_ns)
    tasks = [
        [t.name, t.dtype, t.shape, t.method.name if t.method else None,
         [(n.model, n.tensor) for n in t.inputs()], repr(sorted(t.parameters.items()))]
        for t in plan.tasks
    ]  # fmt: skip
    everything = [
        tasks,
        plan.recipe.seed,
        plan.compute_dtype,
        plan.names,
        repr(plan.recipe.vocabulary),
        sorted((str(p), *s) for p, s in known.items()),
        [s.header.hex() for files in layouts for s in files.shards],
        device.split(":")[0],
    ]
    return hashlib.sha256(json.dumps(everything).encode()).hexdigest()


def merge_plan(
    plan: Plan,
    out: OutputFolder,
    options: Options,
    progress: Callable[[str, int], None] | None = None,
) -> Finished:
    """Run a plan into the working folder of an output; the caller publishes it.

    `progress` gets the name of a tensor and the bytes of output that are new.
    """
    files = plan_layout(plan, options.shard_size)
    beside = parts_layout(plan, options.shard_size)
    layouts = [files, *([beside] if beside is not None else [])]
    for task in plan.tasks:
        if task.method is not None and options.block is None:
            block_of(task, options)
    keep_freed_memory()
    kernels()  # once, for all processes that are forked later
    began = time.perf_counter()
    journal, writers = _begun(plan, out, layouts, options)
    resumed = sum(len(pieces) for pieces in journal.done.values())
    gauge = MemoryGauge()
    executor = executor_into_files(plan, options)
    told = executor.relay(_recorder(plan, journal, gauge, progress))
    continuing: list[Job] = []

    def jobs() -> Iterator[Job | CopyJob]:
        for job in _jobs(plan, options, journal, writers, told):
            if isinstance(job, Job) and job.method.continues is not None:
                continuing.append(job)
            yield job

    if not all(job.light for job in _jobs(plan, options, journal, writers, told)):
        now("torch")  # once, and not by every worker for itself
    try:
        with one_thread():
            executor.run(grouped(jobs()))
        merged = time.perf_counter()
        for writer in writers:
            writer.sync()
    finally:
        journal.close()
        for writer in writers:
            writer.close()
    return Finished(
        out=out.out,
        layout=files,
        seconds=merged - began,
        sync_seconds=time.perf_counter() - merged,
        resumed_pieces=resumed,
        peak_bytes=gauge.peak,
        digests=_added_up(plan, journal),
        parts=beside,
        part_digests=_parts_added_up(plan, journal),
        continued=_continued(continuing),
    )


def _begun(
    plan: Plan, out: OutputFolder, layouts: Sequence[Layout], options: Options
) -> tuple[Journal, list[ShardWriter]]:
    """The journal of a run, and a writer for each layout; what cannot be used is cleared away."""
    try:
        journal = Journal(
            out.journal,
            fingerprint(plan, layouts, options.device),
            resume=options.resume,
            intact=all(f.present(out.work) for f in layouts),
        )
        resumed = any(journal.done.values())
        if not resumed:
            out.clear()
        return journal, [ShardWriter(out.work, f, resume=resumed) for f in layouts]
    except OSError as error:
        raise DiskError(f"'{out.work}': {error.strerror or error}.") from error


def _recorder(
    plan: Plan,
    journal: Journal,
    gauge: MemoryGauge,
    progress: Callable[[str, int], None] | None,
) -> Callable[[int, Done], None]:
    """What is to be called with the number of a task when a piece of it is finished."""
    lock = threading.Lock()

    def record(index: int, done: Done) -> None:
        task = plan.tasks[index]
        journal.record(index, done)
        with lock:
            gauge.look()
            if progress is not None:
                progress(task.name, (done.stop - done.start) * SIZES[task.dtype])

    return record


def _jobs(
    plan: Plan,
    options: Options,
    journal: Journal,
    writers: Sequence[ShardWriter],
    told: Callable[[int, Done], None],
) -> Iterator[Job | CopyJob]:
    """The jobs of a plan, without the pieces that its journal has."""
    labels = labels_of(plan)
    for index, task in enumerate(plan.tasks):
        yield job_of(
            task,
            plan.checkpoints,
            ShardTarget(writers[0], task.name),
            options,
            seed=plan.recipe.seed,
            compute=plan.compute_dtype,
            skip=frozenset(journal.done.get(index, {})),
            finished=partial(told, index),
            parts=parts_out(task, labels, lambda name: ShardTarget(writers[1], name)),
        )


def _continued(jobs: Sequence[Job]) -> Mapping[str, float]:
    """What a method tells of a merge to the next one; the same for every tensor with elements."""
    for job in jobs:
        if job.numel and job.method.continues is not None:
            found: Mapping[str, float] = call(job.method.continues, **job.parameters, **job.state)
            return found
    return {}


def _added_up(plan: Plan, journal: Journal) -> dict[str, tuple[int, list[int]]]:
    found: dict[str, tuple[int, list[int]]] = {}
    for index, task in enumerate(plan.tasks):
        output, inputs = 0, [0] * len(task.inputs())
        for done in journal.done.get(index, {}).values():
            output += done.output
            inputs = [a + b for a, b in zip(inputs, done.inputs, strict=True)]
        found[task.name] = (output, inputs)
    return found


def _parts_added_up(plan: Plan, journal: Journal) -> dict[str, int]:
    labels = labels_of(plan)
    found: dict[str, int] = {}
    for index, task in enumerate(plan.tasks):
        names = [slot.name for slot in slots_of(task, labels)]
        found |= dict.fromkeys(names, 0)
        for done in journal.done.get(index, {}).values():
            for name, digest in zip(names, done.parts, strict=True):
                found[name] += digest
    return found


def parameters_of(task: Task) -> dict[str, Any]:
    """A task's parameters as recipes spell them."""
    if task.method is None:
        return {}
    spelled = {p.argument: name for name, p in task.method.parameters.items()}
    return {spelled[argument]: value for argument, value in task.parameters.items()}
