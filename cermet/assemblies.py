"""`restore`: the model of one expert, or of several by weights, out of what holds them."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cermet.anatomy import survey
from cermet.api import Merged
from cermet.archives import restore_archive
from cermet.checkpoints.carry import carry_files
from cermet.checkpoints.dtypes import SIZES
from cermet.checkpoints.front_matter import CARD, read_front_matter
from cermet.checkpoints.origin import recorded_origins
from cermet.checkpoints.reader import Checkpoint, open_checkpoint, open_parts
from cermet.checkpoints.writer import Layout, ShardWriter, Slot, layout
from cermet.core.errors import DiskError, FormatError, InputError, MismatchError, OutputError
from cermet.core.fingerprint import digest_hex
from cermet.core.registry import Method, find_method
from cermet.core.types import Place
from cermet.engine.archive import is_archive
from cermet.engine.blocks import Input
from cermet.engine.card import restored_card
from cermet.engine.copy import CopyJob
from cermet.engine.done import Done
from cermet.engine.folder import RECORD, OutputFolder
from cermet.engine.manifest import Manifest, read_manifest
from cermet.engine.memory import DEFAULT_BUDGET
from cermet.engine.once import Progress, Ran, record_once, run_once
from cermet.engine.options import DEFAULT_SHARD, Options, executor_for
from cermet.engine.record import read_record, run_folder, write_json
from cermet.engine.restore import Digests, RestoreJob, parts_of, shares
from cermet.engine.run import PARTS
from cermet.engine.shards import shards_of
from cermet.engine.target import ShardTarget
from cermet.recipes.opening import open_model
from cermet.recipes.schema import parse_model

__all__ = ["restore"]


@dataclass(frozen=True)
class _Assembly:
    """An assembly that is open, with the base that its experts are restored with."""

    folder: Path
    manifest: Manifest
    record: Mapping[str, Any]
    method: Method
    merged: Checkpoint
    kept: Checkpoint
    base: Checkpoint | None
    base_name: str | None

    def base_of(self, tensor: str) -> tuple[str, str | None] | None:
        """The base's tensor that one was merged with, and its digest where it has one."""
        sources = self.record["tensors"][tensor]["sources"]
        if self.base is None or len(sources) <= len(self.manifest.experts):
            return None
        source = sources[len(self.manifest.experts)]
        return str(source["tensor"]), source["digest"]


def restore(
    assembly: str | Path,
    out: str | Path,
    *,
    task: str | Mapping[str, float] | None = None,
    base: str | Path | None = None,
    memory: int = DEFAULT_BUDGET,
    threads: int | None = None,
    shard_size: int = DEFAULT_SHARD,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Merged:
    """Write the model of one expert of an assembly, or of an archive, as a checkpoint of its own.

    Parameters
    ----------
    assembly: a folder that `merge` wrote with a method that keeps parts of its experts, or a
        delta archive, which `compress` wrote.
    task: of an assembly, the name of an expert, as the manifest lists them, or several names and
        weights: the mean of their models by these weights.
    base: where the base is now; where it was found before by default. Another base is refused.
    memory: working memory for archives whose codec works on whole matrices, in bytes.
    threads, shard_size, overwrite, progress: as of `merge`.

    Raises CermetError in one of its kinds; the output is then as it was before.
    """
    options = Options(memory, threads, shard_size=shard_size, overwrite=overwrite)
    if is_archive(Path(assembly)):
        if task is not None:
            raise InputError(f"'{assembly}' is a delta archive of one expert, so it has no tasks.")
        known = None if base is None else str(base)
        return restore_archive(
            Path(assembly), Path(out), base=known, options=options, progress=progress
        )
    opened = _opened(Path(assembly), base)
    weights = _weights(opened, task)
    _check_apart(opened, Path(out))
    files = _layout(opened, shard_size)
    with OutputFolder(Path(out), resume=False, overwrite=overwrite) as folder:
        try:
            folder.check_space(files.size)
            ran, digests = _run(opened, weights, files, folder, options, progress)
            tensors = _tensors(opened, files, digests)
            _write_beside(opened, weights, tensors, folder, ran, options)
            folder.publish()
        except OSError as error:
            raise DiskError(f"'{out}' cannot be written: {error.strerror or error}.") from error
        except BaseException:
            folder.discard()
            raise
    return Merged(
        Path(out), ran.seconds, ran.sync_seconds, files.size, ran.peak, len(files.slots), 0
    )


def _opened(folder: Path, base: str | Path | None) -> _Assembly:
    manifest = read_manifest(folder)
    record = read_record(folder / RECORD)
    method = find_method(manifest.method)
    if method.restore is None:
        raise InputError(f"'{folder}': '{method.name}' makes one model; its manifest is damaged.")
    given, name = None, str(base) if base is not None else manifest.base
    if manifest.base is not None and name is not None:
        try:
            given = open_model(parse_model(name), run_folder(folder, record))
        except InputError as error:
            raise InputError(
                f"The base of '{folder}' is not where it was: {error} Say where it is with --base."
            ) from error
    return _Assembly(
        folder, manifest, record, method, open_checkpoint(folder), open_parts(folder, PARTS),
        given, name if manifest.base is not None else None,
    )  # fmt: skip


def _weights(opened: _Assembly, task: str | Mapping[str, float] | None) -> dict[str, float]:
    """Names of experts and their shares of 1; InputError for a name that is none."""
    known = [expert.name for expert in opened.manifest.experts]
    if task is None:
        raise InputError(
            f"'{opened.folder}' is an assembly; name one of its tasks: {', '.join(known)}."
        )
    given = {task: 1.0} if isinstance(task, str) else task
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise InputError(
                f"'{opened.folder}' has no task '{name}'.{hint} Its tasks: {', '.join(known)}."
            )
    return shares(given)


def _check_apart(opened: _Assembly, out: Path) -> None:
    """Refuse an output that would replace what it is made of."""
    used = {t.file.resolve().parent for t in opened.merged.tensors.values()}
    if opened.base is not None:
        used |= {t.file.resolve().parent for t in opened.base.tensors.values()}
    if Path(os.path.realpath(out)) in used:
        raise OutputError(
            f"'{out}' holds what is restored from, so it cannot be the output. Choose another name."
        )


def _layout(opened: _Assembly, shard_size: int) -> Layout:
    """The files of the output: the tensors of the merged model, in the order of its record."""
    slots = []
    for name in opened.record["tensors"]:
        info = opened.merged.tensors.get(name)
        if info is None:
            raise FormatError(f"'{opened.folder}' lacks the tensor '{name}' of its record.")
        slots.append(Slot(name, info.dtype, info.shape, info.nbytes))
    return layout(slots, shard_size)


def _run(
    opened: _Assembly,
    weights: Mapping[str, float],
    files: Layout,
    folder: OutputFolder,
    options: Options,
    progress: Progress | None,
) -> tuple[Ran, Mapping[str, int]]:
    """Write the weights; also the digests of what was written, by tensor."""
    digests, jobs = Digests(), list[RestoreJob | CopyJob]()

    def work(writer: ShardWriter, told: Progress) -> None:
        jobs.extend(_jobs(opened, weights, files, writer, digests, told))
        executor_for(options.workers()).run(jobs)

    ran = run_once(folder, files, work, progress)
    for job in jobs:
        if isinstance(job, RestoreJob):
            _check_digests(opened, job)
            digests.total[job.name] = job.digests.total.get("out", 0)
    return ran, digests.total


def _jobs(
    opened: _Assembly,
    weights: Mapping[str, float],
    files: Layout,
    writer: ShardWriter,
    digests: Digests,
    told: Progress,
) -> Iterator[RestoreJob | CopyJob]:
    """The work on every tensor; copies add to `digests` what they have written."""
    shapes = {name: info.shape for name, info in opened.merged.tensors.items()}
    places = survey(shapes, opened.merged.config).places
    for name, slot in files.slots.items():
        target = ShardTarget(writer, name)
        if opened.record["tensors"][name]["method"] != "copy":
            yield _job(opened, weights, places[name], target, partial(told, name))
            continue

        def finished(done: Done, name: str = name, size: int = SIZES[slot.dtype]) -> None:
            digests.count(name, done.output)
            told(name, (done.stop - done.start) * size)

        numel = opened.merged.tensors[name].numel
        yield CopyJob(name, numel, [Input(opened.merged, name)], target, finished=finished)


def _job(
    opened: _Assembly,
    weights: Mapping[str, float],
    place: Place,
    target: ShardTarget,
    progress: Callable[[int], None],
) -> RestoreJob:
    name = place.name
    given = opened.record["tensors"][name]["parameters"]
    known = opened.base_of(name)
    base = None
    if known is not None:
        assert opened.base is not None
        info, own = opened.merged.tensors[name], opened.base.tensors.get(known[0])
        if own is None or own.shape != info.shape:
            raise MismatchError(
                f"'{opened.base_name}' is not the base of '{opened.folder}': it has no tensor "
                f"'{known[0]}' {list(info.shape)}."
            )
        base = Input(opened.base, known[0])
    parameters = {
        p.argument: tuple(v) if isinstance(v := given.get(p.name), list) else v
        for p in opened.method.parameters.values()
    }
    stored = [parts_of(opened.method, label, name, opened.record["parts"]) for label in weights]
    for part in (part for parts in stored for part in parts.values()):
        if part not in opened.kept.tensors:
            raise FormatError(f"'{opened.folder}' lacks '{part}' of its record.")
    return RestoreJob(
        place, opened.method, parameters, Input(opened.merged, name), base, opened.kept,
        stored, list(weights.values()), target, progress=progress,
    )  # fmt: skip


def _check_digests(opened: _Assembly, job: RestoreJob) -> None:
    """Refuse an assembly that is damaged, and a base that is not the one it was merged with."""
    found = job.digests.total
    entry = opened.record["tensors"][job.name]
    nbytes = opened.merged.tensors[job.name].nbytes
    if digest_hex(found.get("merged", 0), nbytes) != entry["digest"]:
        raise FormatError(
            f"Tensor '{job.name}' of '{opened.folder}' has changed since it was written."
        )
    known = opened.base_of(job.name)
    if known is not None and known[1] is not None and opened.base is not None:
        nbytes = opened.base.tensors[known[0]].nbytes
        if digest_hex(found.get("base", 0), nbytes) != known[1]:
            raise MismatchError(
                f"'{opened.base_name}' is not the base that '{opened.folder}' was merged with: "
                f"its tensor '{known[0]}' is another. Name the right one with --base."
            )
    for parts in job.parts:
        for name in parts.values():
            wanted = opened.record["parts"][name]["digest"]
            if digest_hex(found.get(name, 0), opened.kept.tensors[name].nbytes) != wanted:
                raise FormatError(
                    f"'{name}' of '{opened.folder}' has changed since it was written."
                )


def _write_beside(
    opened: _Assembly,
    weights: Mapping[str, float],
    tensors: Mapping[str, Any],
    folder: OutputFolder,
    ran: Ran,
    options: Options,
) -> None:
    """Config, tokenizer and other files, model card, record."""
    if opened.merged.config:
        write_json(folder.work / "config.json", opened.merged.config)
    carry_files(opened.folder, opened.folder, folder.work)
    blend = " + ".join(
        f"`{name}`" if share == 1 else f"{share:.4g} `{name}`" for name, share in weights.items()
    )
    card = read_front_matter(opened.folder)
    origins = recorded_origins(opened.record.get("origins", ()), card)
    models = _models(opened)
    count = len(opened.manifest.experts)
    text = restored_card(blend, count, opened.method, origins, models)
    (folder.work / CARD).write_text(text, "utf-8")
    origin = {
        "assembly": os.path.abspath(opened.folder),
        "tasks": dict(weights),
        "base": opened.base_name,
    }
    record = record_once({"restore": origin}, tensors, models, origins, folder, ran, options)
    write_json(folder.work / RECORD, {**record, "seed": opened.record.get("seed")})


def _models(opened: _Assembly) -> list[dict[str, Any]]:
    """What was restored from, with its files; all its digests are compared."""
    entries = opened.record["tensors"]
    read = {name: str(entry["digest"]) for name, entry in entries.items()}
    found = [(os.path.abspath(opened.folder), opened.merged, read)]
    if opened.base is not None and opened.base_name is not None:
        bases = [opened.base_of(name) for name, e in entries.items() if e["method"] != "copy"]
        of_base = {known[0]: known[1] for known in bases if known is not None and known[1]}
        found.append((opened.base_name, opened.base, of_base))
    return [{"name": n, "path": c.path, "files": shards_of(c, d)} for n, c, d in found]


def _tensors(
    opened: _Assembly, files: Layout, digests: Mapping[str, int]
) -> dict[str, dict[str, Any]]:
    """What the record says of every tensor."""
    tensors = {}
    for name, slot in files.slots.items():
        entry = opened.record["tensors"][name]
        tensors[name] = {
            "shard": files.shard_of(name),
            "dtype": slot.dtype,
            "shape": list(slot.shape),
            "role": entry.get("role"),
            "digest": digest_hex(digests[name], slot.nbytes),
            "method": entry["method"] if entry["method"] == "copy" else "restore",
            "sources": [],
        }
    return tensors
