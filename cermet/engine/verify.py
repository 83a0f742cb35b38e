"""Checking a folder that Cermet wrote: digests, finite numbers, and tensors made again."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from cermet.checkpoints.dtypes import FLOATS, TORCH
from cermet.checkpoints.reader import Checkpoint
from cermet.core.fingerprint import digest_bytes, digest_hex
from cermet.engine.executors import Staged
from cermet.engine.group import Group
from cermet.engine.job import Job
from cermet.engine.record import sources_of
from cermet.engine.run import Options, executor_for, job_of
from cermet.engine.target import MemoryTarget
from cermet.recipes.plan import Plan, Task

__all__ = ["Findings", "check_again", "check_digests", "check_parts"]

_STEP = 1 << 22  # elements looked at at once


@dataclass
class Findings:
    """What a check has found. `problems` is empty where everything is right."""

    checked: int = 0
    remade: int = 0
    problems: list[str] = field(default_factory=list)


def _digest(checkpoint: Checkpoint, name: str) -> tuple[str, bool]:
    """Digest of a tensor as it is on disk, and whether all its numbers are finite."""
    info = checkpoint.tensors[name]
    total, finite = 0, True
    for start in range(0, info.numel, _STEP):
        block = checkpoint.block(name, start, min(start + _STEP, info.numel))
        raw = block.contiguous().view(torch.uint8).numpy()
        total += digest_bytes(raw, start * block.element_size())
        if info.dtype in FLOATS:
            finite = finite and bool(torch.isfinite(block).all())
    return digest_hex(total, info.nbytes), finite


def check_digests(
    folder: Checkpoint,
    record: Mapping[str, Any],
    progress: Callable[[int], None] | None = None,
) -> Findings:
    """Compare every tensor with the digest in the record, and look for NaN and infinity."""
    found = Findings()
    expected: Mapping[str, Any] = record["tensors"]
    for name in folder.tensors:
        if name not in expected:
            found.problems.append(f"tensor '{name}' is not in the record")
    for name, entry in expected.items():
        if name not in folder.tensors:
            found.problems.append(f"tensor '{name}' is missing")
            continue
        digest, finite = _digest(folder, name)
        if digest != entry["digest"]:
            found.problems.append(
                f"tensor '{name}' in '{entry['shard']}' has changed since it was written"
            )
        elif not finite and entry["method"] != "copy":
            found.problems.append(f"tensor '{name}' holds NaN or infinity")
        found.checked += 1
        if progress is not None:
            progress(folder.tensors[name].nbytes)
    return found


def check_parts(
    kept: Checkpoint, record: Mapping[str, Any], progress: Callable[[int], None] | None = None
) -> Findings:
    """Compare what is kept of the experts with the digests in the record."""
    found = Findings()
    expected: Mapping[str, Any] = record["parts"]
    for name in kept.tensors.keys() - expected.keys():
        found.problems.append(f"'{name}' is not in the record")
    for name, entry in expected.items():
        if name not in kept.tensors:
            found.problems.append(f"'{name}' is missing")
            continue
        digest, _ = _digest(kept, name)
        if digest != entry["digest"]:
            found.problems.append(f"'{name}' in '{entry['file']}' has changed since it was written")
        found.checked += 1
        if progress is not None:
            progress(kept.tensors[name].nbytes)
    return found


def _chosen(tasks: tuple[Task, ...], record: Mapping[str, Any], seed: int) -> list[Task]:
    """At least one task of every role, and of every shard."""
    groups: dict[tuple[str, str], list[Task]] = {}
    for task in tasks:
        shard = str(record["tensors"].get(task.name, {}).get("shard", ""))
        groups.setdefault(("role", str(task.place.role)), []).append(task)
        groups.setdefault(("shard", shard), []).append(task)
    pick = random.Random(seed)
    return list({t.name: t for group in groups.values() for t in [pick.choice(group)]}.values())


def check_again(plan: Plan, record: Mapping[str, Any], options: Options, seed: int) -> Findings:
    """Check the sources of some tensors, make these again, and compare their digests."""
    found = Findings(problems=_changed_adapters(plan, record))
    chosen = []
    for task in _chosen(plan.tasks, record, seed):
        entry = record["tensors"].get(task.name)
        if entry is None:
            found.problems.append(f"the recipe makes a tensor '{task.name}' that is not there")
            continue
        changed = _changed_sources(plan, task, entry)
        if changed:
            found.problems += changed
            continue
        chosen.append(task)
    for task, made in _remade(plan, chosen, options):
        raw = made.view(torch.uint8).numpy()
        digest = digest_hex(digest_bytes(raw, 0), task.nbytes)
        if digest != record["tensors"][task.name]["digest"]:
            found.problems.append(f"tensor '{task.name}', made again, comes out different")
        found.remade += 1
    return found


def _remade(
    plan: Plan, chosen: list[Task], options: Options
) -> Iterator[tuple[Task, torch.Tensor]]:
    """The chosen tensors, made again; one at a time where the method allows."""
    if not plan.method.whole:
        for task in chosen:
            yield task, _run(plan, [task], [task], options)[task.name]
    elif chosen:
        made = _run(plan, list(plan.tasks), chosen, options)
        yield from ((task, made[task.name]) for task in chosen)


def _run(
    plan: Plan, tasks: list[Task], chosen: list[Task], options: Options
) -> dict[str, torch.Tensor]:
    """Make the chosen ones of some tensors; the others take part in rounds over the model."""
    wanted = {task.name for task in chosen}
    made = {t.name: torch.empty(t.numel, dtype=TORCH[t.dtype]) for t in chosen}
    nothing = torch.empty(0)
    jobs = {
        task.name: job_of(
            task, plan.checkpoints, MemoryTarget(made.get(task.name, nothing)), options,
            seed=plan.recipe.seed, compute=plan.compute_dtype,
        )
        for task in tasks if task.name in wanted or task.method is not None
    }  # fmt: skip
    whole = [j for j in jobs.values() if isinstance(j, Job) and j.method.whole]
    run: list[Staged] = [j for j in jobs.values() if j not in whole]
    if whole:
        run.append(Group(whole, finish=[j for j in whole if j.name in wanted]))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the merge: sums and products round by it
    try:
        executor_for(options.workers()).run(run)
    finally:
        torch.set_num_threads(threads)
    return made


def _changed_adapters(plan: Plan, record: Mapping[str, Any]) -> list[str]:
    """Adapters whose files are others than at the merge; their tensors have no digest."""
    problems = []
    for reference, checkpoint, entry in zip(
        plan.models, plan.checkpoints, record["models"], strict=False
    ):
        known = {f["file"]: f.get("sha256") for f in entry["files"]}
        for file in sources_of(checkpoint):
            if "sha256" in file and file["sha256"] != known.get(file["file"]):
                problems.append(f"'{file['file']}' of '{reference}' has changed since the merge")
    return problems


def _changed_sources(plan: Plan, task: Task, entry: Mapping[str, Any]) -> list[str]:
    if len(entry["sources"]) != len(task.inputs()):
        return [f"tensor '{task.name}' has other sources in the record than in the recipe"]
    problems = []
    for named, source in zip(task.inputs(), entry["sources"], strict=True):
        if source["digest"] is None:
            continue
        digest, _ = _digest(plan.checkpoints[named.model], named.tensor)
        if digest != source["digest"]:
            problems.append(
                f"tensor '{named.tensor}' of '{plan.names[named.model]}' has changed since the "
                "merge"
            )
    return problems
