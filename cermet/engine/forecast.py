"""What a plan would do: files, bytes, passes, memory, disk, time."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from cermet.checkpoints.header import TensorInfo
from cermet.checkpoints.reader import Checkpoint
from cermet.core.cover import workspace_of
from cermet.core.errors import DiskError
from cermet.engine.memory import block_bytes
from cermet.engine.options import Options
from cermet.engine.run import block_of, parameters_of, parts_layout, plan_layout
from cermet.maths import native
from cermet.maths.lowered import Chance, Ranked, lowering
from cermet.maths.native.compiled import kernels
from cermet.recipes.assembly import labels_of
from cermet.recipes.plan import Plan, Task

__all__ = ["forecast"]

# Measured with `make bench` on two cores of an AMD EPYC: one thread works through this many
# bytes of float32 block in a second, for a method whose workspace is one block. Where compiled
# kernels do it, it takes so many seconds for each byte that is read and written, for each number
# of a model in a pass, and for each number of which a mask is drawn.
_BYTES_PER_SECOND = 5e9
_READ, _WRITTEN, _NUMBER = 0.15e-9, 0.85e-9, 0.3e-9
_DRAWN = {Chance: 1.2e-9, Ranked: 4.5e-9}
_START, _TORCH = 0.6, 2.0  # seconds, and more where torch is imported


def forecast(plan: Plan, options: Options, out: Path) -> dict[str, Any]:
    """Everything that `cermet plan` prints, as plain data.

    Raises DiskError and BudgetError where the machine cannot hold the output or a block.
    """
    files = plan_layout(plan, options.shard_size)
    parts = parts_layout(plan, options.shard_size)
    size = files.size + (parts.size if parts is not None else 0)
    place = _existing(out.absolute())
    free = shutil.disk_usage(place).free if place is not None else None
    if free is not None and size > free:
        raise DiskError(
            f"The output takes {size / 1e9:.2f} GB, but '{place}' has {free / 1e9:.2f} GB free."
        )
    threads = options.workers()
    sizes = [_size(n, c) for n, c in zip(plan.names, plan.checkpoints, strict=True)]
    return {
        "method": plan.method.name,
        "models": sizes[: len(plan.models)],
        "statistics": sizes[len(plan.models) :],
        "vocabulary": plan.vocabulary.summary() if plan.vocabulary is not None else None,
        "groups": _groups(plan),
        "passes": max(t.passes for t in plan.tasks),
        "bytes_read": plan.bytes_read(),
        "bytes_written": plan.bytes_written(),
        "files": [{"file": s.file, "bytes": s.size} for s in files.shards],
        "experts": list(labels_of(plan)),
        "parts": [{"file": s.file, "bytes": s.size} for s in parts.shards] if parts else [],
        "disk_free": free,
        "memory": threads * max((_block_bytes(t, options) for t in plan.tasks), default=0),
        "memory_budget": options.memory,
        "threads": threads,
        "seconds": _start(plan) + sum(_seconds(plan, task) for task in plan.tasks) / threads,
        "warnings": list(plan.warnings),
        "notes": list(plan.notes),
    }


def _size(name: str, checkpoint: Checkpoint) -> dict[str, Any]:
    tensors = checkpoint.tensors.values()
    return {
        "name": name,
        "tensors": len(tensors),
        "bytes": sum(t.nbytes for t in tensors),
        "files": len({t.file for t in tensors}),
    }


def _existing(path: Path) -> Path | None:
    return next((p for p in (path, *path.parents) if p.is_dir()), None)


def _block_bytes(task: Task, options: Options) -> int:
    if task.method is None:
        return 0
    block = min(block_of(task, options), max(1, task.numel))
    each = block_bytes(task.method, len(task.sources), task.place, **task.parameters)
    return int(block * each)


def _stored(plan: Plan, task: Task) -> list[TensorInfo]:
    return [plan.checkpoints[n.model].tensors[n.tensor] for n in task.inputs()]


def _compiled(plan: Plan, task: Task) -> bool:
    """Whether kernels do most of the work, as far as the plan tells."""
    method = task.method
    if method is None or (method.form is None and method.coefficients is None):
        return method is None
    return kernels() is not None and all(t.dtype in native.KINDS for t in _stored(plan, task))


def _start(plan: Plan) -> float:
    return _START + (0.0 if all(_compiled(plan, task) for task in plan.tasks) else _TORCH)


def _seconds(plan: Plan, task: Task) -> float:
    """Of one thread."""
    models, method, stored = len(task.sources), task.method, _stored(plan, task)
    moved = sum(t.nbytes for t in stored) * task.passes * _READ + task.nbytes * _WRITTEN
    numbers = task.numel * len(stored) * task.passes
    if method is None:
        return moved
    if _compiled(plan, task):
        drawn = _DRAWN.get(type(lowering(method.mask)), 0.0)
        return moved + numbers * _NUMBER + task.numel * models * drawn
    return 4.0 * numbers * (1.0 + workspace_of(method, models, task.place)) / _BYTES_PER_SECOND


def _groups(plan: Plan) -> list[dict[str, Any]]:
    """Tensors with the same method and numbers, together."""
    groups: dict[tuple[str, str, int], list[Task]] = {}
    for task in plan.tasks:
        method = task.method.name if task.method is not None else "copy"
        groups.setdefault((method, _numbers(task), task.passes), []).append(task)
    found = []
    for (method, numbers, passes), tasks in groups.items():
        layers = sorted({t.place.layer for t in tasks if t.place.layer is not None})
        roles = sorted({str(t.place.role) for t in tasks})
        found.append(
            {
                "method": method,
                "parameters": numbers,
                "passes": passes,
                "tensors": len(tasks),
                "roles": " ".join(roles),
                "layers": _span(layers),
                "names": [t.name for t in tasks],
            }
        )
    return found


def _numbers(task: Task) -> str:
    """The parameters of a task; those of a pipeline step by step."""
    steps: dict[str, list[str]] = {}
    for name, value in parameters_of(task).items():
        step, _, own = name.rpartition(".")
        steps.setdefault(step, []).append(f"{own}={_short(value)}")
    return "; ".join((f"{s}: " if s else "") + ", ".join(own) for s, own in steps.items())


def _span(layers: list[int]) -> str:
    if not layers:
        return "-"
    whole = layers == list(range(layers[0], layers[-1] + 1))
    if whole and len(layers) > 1:
        return f"{layers[0]}-{layers[-1]}"
    return ",".join(map(str, layers))


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        same = len(set(value)) == 1
        return _short(value[0]) if same else "[" + ", ".join(map(_short, value)) + "]"
    return f"{value:.6g}" if isinstance(value, float) else str(value).lower()
