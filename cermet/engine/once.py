"""Outputs that are written in one go and cannot be resumed: restored experts, transplants."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cermet.checkpoints.origin import Origin
from cermet.checkpoints.writer import Layout, ShardWriter
from cermet.engine.executors import one_thread
from cermet.engine.folder import OutputFolder
from cermet.engine.memory import MemoryGauge, keep_freed_memory
from cermet.engine.options import Options
from cermet.engine.record import beside, machine, origins_record, recipe_sha256, versions

__all__ = ["Progress", "Ran", "record_once", "run_once"]

Progress = Callable[[str, int], None]


@dataclass(frozen=True)
class Ran:
    """What a run took: seconds of the work, and until all was on the disk; bytes of memory."""

    seconds: float
    sync_seconds: float
    peak: int


def run_once(
    folder: OutputFolder,
    files: Layout,
    work: Callable[[ShardWriter, Progress], None],
    progress: Progress | None = None,
) -> Ran:
    """Write the weight files of an output; `work` gets the writer and tells of what is done."""
    keep_freed_memory()
    began = time.perf_counter()
    folder.clear()
    gauge = MemoryGauge()
    writer = ShardWriter(folder.work, files)

    def told(name: str, count: int) -> None:
        gauge.look()
        if progress is not None:
            progress(name, count)

    try:
        with one_thread():
            work(writer, told)
        done = time.perf_counter()
        writer.sync()
    finally:
        writer.close()
    return Ran(done - began, time.perf_counter() - done, gauge.peak)


def record_once(
    recipe: Mapping[str, Any],
    tensors: Mapping[str, Any],
    models: Sequence[Mapping[str, Any]],
    origins: Sequence[Origin],
    folder: OutputFolder,
    ran: Ran,
    options: Options,
) -> dict[str, Any]:
    """The record of such a run, in the form of `record_of`.

    recipe: what was asked for, under a key of its own. models: with their files.
    """
    return {
        "format": 1,
        "recipe": recipe,
        "recipe_sha256": recipe_sha256(recipe),
        "models": models,
        **origins_record(origins),
        "versions": versions(),
        "machine": machine(options.device),
        "run": {
            "folder": os.path.relpath(Path.cwd(), folder.out),
            "device": options.device,
            "threads": options.workers(),
            "peak_private_bytes": ran.peak,
            "merge_seconds": round(ran.seconds, 3),
            "sync_seconds": round(ran.sync_seconds, 3),
        },
        "files": folder.files(),
        "beside": beside(folder.work, folder.files()),
        "tensors": tensors,
    }
