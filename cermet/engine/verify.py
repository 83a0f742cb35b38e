"""Checking a folder that Cermet wrote: digests, finite numbers, and tensors made again."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from cermet.checkpoints.dtypes import TORCH
from cermet.checkpoints.reader import Checkpoint
from cermet.core.errors import CermetError, FormatError, InputError
from cermet.core.fingerprint import digest_bytes, digest_hex
from cermet.engine.archive import changed_files, opened_parts, read_archive
from cermet.engine.executors import Staged, one_thread
from cermet.engine.findings import Findings, Kind, remade_differently
from cermet.engine.group import Group
from cermet.engine.job import Job
from cermet.engine.options import Options, executor_for
from cermet.engine.record import beside, recipe_sha256
from cermet.engine.run import job_of, parameters_of
from cermet.engine.shards import digest_of, shards_of
from cermet.engine.target import MemoryTarget
from cermet.recipes.plan import Named, Plan, Task

__all__ = [
    "Findings",
    "check_again",
    "check_archive",
    "check_beside",
    "check_digests",
    "check_parts",
    "explain_refusal",
]


def check_digests(
    folder: Checkpoint,
    record: Mapping[str, Any],
    progress: Callable[[int], None] | None = None,
) -> Findings:
    """Compare every tensor with the digest in the record, and look for NaN and infinity."""
    found = Findings()
    expected: Mapping[str, Any] = record["tensors"]
    for name, info in folder.tensors.items():
        if name not in expected:
            found.add(Kind.OUTPUT, f"tensor '{name}' in '{info.file.name}' is not in the record")
    for name, entry in expected.items():
        if name not in folder.tensors:
            found.add(Kind.OUTPUT, f"tensor '{name}' is missing; '{entry['shard']}' had it")
            continue
        digest, finite = digest_of(folder, name)
        form = _other_form(folder, name, entry)
        if digest != entry["digest"]:
            found.add(
                Kind.OUTPUT,
                f"tensor '{name}' in '{entry['shard']}' has changed since it was written",
            )
        elif form is not None:
            found.add(Kind.OUTPUT, f"tensor '{name}' in '{entry['shard']}' {form}")
        elif not finite and entry["method"] != "copy":
            found.add(Kind.NUMBERS, f"tensor '{name}' holds NaN or infinity")
        found.checked += 1
        if progress is not None:
            progress(folder.tensors[name].nbytes)
    return found


def _other_form(folder: Checkpoint, name: str, entry: Mapping[str, Any]) -> str | None:
    """Where the header calls the same bytes something else."""
    info = folder.tensors[name]
    here = {"dtype": info.dtype, "shape": list(info.shape)}
    for key, value in here.items():
        if entry.get(key, value) != value:
            return f"has the {key} {value}; it was written as {entry[key]}"
    return None


def check_beside(folder: Path, record: Mapping[str, Any]) -> Findings:
    """Compare the files beside the weights, such as config and tokenizer, with the record."""
    found = Findings()
    for name, digest in record.get("beside", {}).items():
        try:
            here = beside(folder, [name]).get(name, digest)
        except OSError as error:
            found.add(Kind.OUTPUT, f"'{name}' cannot be read: {error.strerror or error}")
            continue
        if here != digest:
            found.add(Kind.OUTPUT, f"'{name}' has changed since it was written")
    if record.get("recipe_sha256") not in (None, recipe_sha256(record["recipe"])):
        found.add(Kind.RECIPE, "the recipe in the record has changed since the merge")
    return found


def check_parts(
    kept: Checkpoint, record: Mapping[str, Any], progress: Callable[[int], None] | None = None
) -> Findings:
    """Compare what is kept of the experts with the digests in the record."""
    found = Findings()
    expected: Mapping[str, Any] = record["parts"]
    for name in kept.tensors.keys() - expected.keys():
        found.add(Kind.OUTPUT, f"'{name}' is not in the record")
    for name, entry in expected.items():
        if name not in kept.tensors:
            found.add(Kind.OUTPUT, f"'{name}' is missing; '{entry['file']}' had it")
            continue
        digest, _ = digest_of(kept, name)
        if digest != entry["digest"]:
            found.add(
                Kind.OUTPUT, f"'{name}' in '{entry['file']}' has changed since it was written"
            )
        found.checked += 1
        if progress is not None:
            progress(kept.tensors[name].nbytes)
    return found


def check_archive(folder: Path, progress: Callable[[int], None] | None = None) -> Findings:
    """Compare the parts of a delta archive, and what stands beside them, with its manifest."""
    found, archive = Findings(), read_archive(folder)
    for error in changed_files(folder, archive):
        found.add(Kind.OUTPUT, str(error))
    kept = opened_parts(folder, archive)
    for entry in archive.tensors.values():
        for stored in entry.parts.values():
            assert kept is not None
            if digest_of(kept, stored.name)[0] != stored.digest:
                found.add(Kind.OUTPUT, f"'{stored.name}' has changed since it was written")
            found.checked += 1
            if progress is not None:
                progress(kept.tensors[stored.name].nbytes)
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


def check_again(
    plan: Plan, record: Mapping[str, Any], options: Options, seed: int, *, edited: bool = False
) -> Findings:
    """Check the sources of some tensors, make these again, and compare their digests.

    edited: whether the recipe is known to be another one than that of the merge.
    """
    found = Findings()
    _check_revisions(found, plan, record)
    _check_files(found, plan, record)
    chosen = []
    for task in _chosen(plan.tasks, record, seed):
        entry = record["tensors"].get(task.name)
        kind = Kind.RECIPE if edited else Kind.RECORD
        if entry is None:
            found.add(kind, f"the recipe makes a tensor '{task.name}' that is not there")
            continue
        other = _other_numbers(task, entry)
        if other is not None:
            found.add(kind, f"tensor '{task.name}' was not made again: {other}")
        elif not _changed_sources(found, plan, task, entry):
            chosen.append(task)
    different = []
    for task, made in _remade(plan, chosen, options):
        raw = made.view(torch.uint8).numpy()
        digest = digest_hex(digest_bytes(raw, 0), task.nbytes)
        if digest != record["tensors"][task.name]["digest"]:
            different.append(task.name)
        found.remade += 1
    remade_differently(found, different, record, options.device, edited=edited)
    return found


def _other_numbers(task: Task, entry: Mapping[str, Any]) -> str | None:
    """What the recipe now says of a tensor, where the record says something else."""
    if len(entry["sources"]) != len(task.inputs()):
        return "it has other sources in the record than in the recipe"
    method = task.method.name if task.method is not None else "copy"
    here = {"method": method, "dtype": task.dtype, **parameters_of(task)}
    there = {**entry, **(p if isinstance(p := entry.get("parameters"), dict) else {})}
    for key, value in here.items():
        plain = json.loads(json.dumps(value, default=str))
        if there.get(key, plain) != plain:
            return f"its {key} is {plain} by the recipe and {there[key]} in the record"
    return None


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
    with one_thread():
        executor_for(options.workers()).run(run)
    return made


def _check_revisions(found: Findings, plan: Plan, record: Mapping[str, Any]) -> None:
    """Models of the hub of which there is another commit now than at the merge."""
    then = {(o["name"], o["part"]): o["revision"] for o in record.get("origins", [])}
    for origin in plan.origins:
        was = then.get((origin.name, origin.part))
        if was and origin.revision and was != origin.revision:
            found.add(
                Kind.SOURCE,
                f"'{origin.name}' is at the revision {origin.revision}; it was merged at {was}",
            )


def _check_files(found: Findings, plan: Plan, record: Mapping[str, Any]) -> None:
    """Files of the sources that are others than at the merge, by size, header or, small, whole."""
    known = {model["name"]: model["files"] for model in record["models"]}
    for name, checkpoint in zip(plan.names, plan.checkpoints, strict=True):
        here = {f["file"]: f for f in shards_of(checkpoint)}
        for then in known.get(name, ()):
            now = here.get(then["file"])
            if now is None:
                found.add(Kind.SOURCE, f"'{name}' has no file '{then['file']}' any more")
                continue
            change = _change(then, now)
            if change is not None:
                found.add(
                    Kind.SOURCE,
                    f"'{then['file']}' of '{name}' has changed since the merge{change}",
                )


def _change(then: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """How a file differs from what the record says of it; empty where that cannot be told."""
    sizes = then.get("bytes"), now.get("bytes")
    if None not in sizes and sizes[0] != sizes[1]:
        return f": it has {sizes[1]:,} bytes, and had {sizes[0]:,}"
    hashes = {
        "header_sha256": ": it lists other tensors",
        "hub_sha256": ": the hub tells another hash",
        "sha256": "",
    }
    for key, how in hashes.items():
        if then.get(key) is not None and now.get(key) not in (None, then[key]):
            return how
    return None


def _changed_sources(found: Findings, plan: Plan, task: Task, entry: Mapping[str, Any]) -> bool:
    """Note the sources of a tensor that have changed; whether there are any."""
    changed = False
    for named, source in zip(task.inputs(), entry["sources"], strict=True):
        if source["digest"] is None:
            continue
        checkpoint = plan.checkpoints[named.model]
        if digest_of(checkpoint, named.tensor)[0] != source["digest"]:
            changed = True
            found.add(Kind.SOURCE, _changed(plan, named))
    return changed


def _changed(plan: Plan, named: Named) -> str:
    file = plan.checkpoints[named.model].tensors[named.tensor].file.name
    return (
        f"tensor '{named.tensor}' in '{file}' of '{plan.names[named.model]}' has changed since "
        "the merge"
    )


def explain_refusal(
    error: CermetError,
    sources: Sequence[tuple[str, Callable[[], Checkpoint]]],
    root: Path,
    *,
    edited: bool,
) -> Findings:
    """Why a record's recipe cannot be planned again: which sources are gone, or what else.

    sources: what the recipe names, with what opens each. root: where the merge was run.
    """
    found = Findings()
    for name, opener in sources:
        try:
            opener()
        except InputError as missing:
            found.add(Kind.MISSING, f"nothing could be made again: {missing}{_looked(name, root)}")
        except FormatError as damaged:
            found.add(Kind.SOURCE, f"nothing could be made again: {damaged}")
    if not found.problems:
        kind = Kind.RECIPE if edited else Kind.RECORD
        if not isinstance(error, InputError):
            kind = Kind.SOURCE
        found.add(kind, f"nothing could be made again: {error}")
    return found


def _looked(name: str, root: Path) -> str:
    """The places where a relative path was looked for."""
    if Path(name).is_absolute():
        return ""
    places = dict.fromkeys(str(place / name) for place in (root, Path.cwd()))
    return " It was looked for as " + " and ".join(f"'{place}'" for place in places) + "."
