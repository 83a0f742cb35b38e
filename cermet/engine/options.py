"""How a plan is run: what a user may choose about it, and the workers that follow from that."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

import torch

from cermet.core.errors import InputError, MachineError
from cermet.engine.executors import Executor
from cermet.engine.executors.processes import Processes, can_fork
from cermet.engine.executors.serial import Serial
from cermet.engine.executors.threads import Threads
from cermet.engine.memory import DEFAULT_BUDGET
from cermet.recipes.plan import Plan

__all__ = ["DEFAULT_SHARD", "Options", "check_device", "executor_for", "executor_into_files"]

DEFAULT_SHARD = 5_000_000_000

_WORTH_FORKING = 1 << 24  # elements of output below which starting processes costs more


@dataclass(frozen=True)
class Options:
    """How a plan is run; nothing here changes a byte of the output.

    memory: bytes of working memory. threads: None for all cores of this process.
    device: cpu or cuda. block: elements of a block, and executor: what the workers are, for
    tests and measurements.
    """

    memory: int = DEFAULT_BUDGET
    threads: int | None = None
    device: str = "cpu"
    shard_size: int = DEFAULT_SHARD
    resume: bool = False
    overwrite: bool = False
    block: int | None = None
    executor: Literal["auto", "threads", "processes"] = "auto"

    def workers(self) -> int:
        """Number of threads."""
        if self.threads is not None:
            return max(1, self.threads)
        affinity = getattr(os, "sched_getaffinity", None)
        return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def check_device(device: str) -> None:
    """Refuse a device that is not here."""
    kind = device.split(":")[0]
    if kind not in ("cpu", "cuda"):
        raise InputError(f"'{device}' is not a device: cpu, cuda or cuda:0.")
    if kind == "cuda" and not torch.cuda.is_available():
        raise MachineError("There is no CUDA device here, or this torch was built without CUDA.")


def executor_for(workers: int) -> Executor:
    """One thread needs no queue."""
    return Serial() if workers == 1 else Threads(workers)


def executor_into_files(plan: Plan, options: Options) -> Executor:
    """Processes where they are worth starting, else threads.

    Each takes whole tensors, so there have to be more of these than processes.
    """
    workers = options.workers()
    if options.executor != "auto":
        return Processes(workers) if options.executor == "processes" else executor_for(workers)
    work = sum(task.numel for task in plan.tasks)
    worth = work >= _WORTH_FORKING and len(plan.tasks) >= 2 * workers
    here = options.device == "cpu" and workers > 1 and not plan.method.whole
    return Processes(workers) if worth and here and can_fork() else executor_for(workers)
