"""Restoring an expert's model from its base and a delta archive."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cermet.anatomy import survey
from cermet.api import Merged
from cermet.checkpoints.carry import carry_files
from cermet.checkpoints.dtypes import SIZES
from cermet.checkpoints.header import read_json
from cermet.checkpoints.origin import origin_of
from cermet.checkpoints.reader import Checkpoint
from cermet.checkpoints.writer import Layout, ShardWriter, Slot, layout
from cermet.core.codec import Codec, find_codec
from cermet.core.errors import (
    DiskError,
    FormatError,
    InputError,
    MethodError,
    MismatchError,
    OutputError,
    RecipeError,
)
from cermet.core.fingerprint import digest_hex
from cermet.core.types import Place
from cermet.engine.archive import Archive, Entry, changed_files, opened_parts, read_archive
from cermet.engine.blocks import Input
from cermet.engine.card import unpacked_card
from cermet.engine.compress import workers_for
from cermet.engine.decode import DecodeJob
from cermet.engine.encode import WHOLE
from cermet.engine.folder import RECORD, OutputFolder
from cermet.engine.once import Progress, Ran, record_once, run_once
from cermet.engine.options import Options, executor_for
from cermet.engine.record import write_json
from cermet.engine.shards import shards_of
from cermet.engine.target import ShardTarget
from cermet.recipes.opening import folder_of, open_model
from cermet.recipes.schema import parse_model
from cermet.recipes.settings import convert

__all__ = ["restore_archive"]


@dataclass(frozen=True)
class _Opened:
    """An archive that is open, with its base; parameters by argument."""

    folder: Path
    archive: Archive
    codec: Codec
    parameters: Mapping[str, Any]
    kept: Checkpoint | None
    base: Checkpoint
    base_name: str
    base_folder: Path
    places: Mapping[str, Place]


def restore_archive(
    folder: Path,
    out: Path,
    *,
    base: str | None,
    options: Options,
    progress: Progress | None = None,
) -> Merged:
    """Write the expert of a delta archive as a checkpoint of its own.

    base: where the base is now; where the compression found it by default.
    """
    opened = _open(folder, base)
    _check_apart(opened, out)
    entries = opened.archive.tensors
    files = layout([_slot(name, entry) for name, entry in entries.items()], options.shard_size)
    with OutputFolder(out, resume=False, overwrite=options.overwrite) as target:
        try:
            target.check_space(files.size)
            ran, digests = _run(opened, files, target, options, progress)
            _write_beside(opened, _tensors(opened, files, digests), target, ran, options)
            target.publish()
        except OSError as error:
            raise DiskError(f"'{out}' cannot be written: {error.strerror or error}.") from error
        except BaseException:
            target.discard()
            raise
    return Merged(out, ran.seconds, ran.sync_seconds, files.size, ran.peak, len(entries), 0)


def _slot(name: str, entry: Entry) -> Slot:
    nbytes = SIZES[entry.dtype]
    for length in entry.shape:
        nbytes *= length
    return Slot(name, entry.dtype, tuple(entry.shape), nbytes)


def _open(folder: Path, base: str | None) -> _Opened:
    archive = read_archive(folder)
    for error in changed_files(folder, archive):
        raise error
    kept = opened_parts(folder, archive)
    try:
        codec = find_codec(archive.codec)
    except MethodError as error:
        raise FormatError(
            f"'{folder}' was made with the codec '{archive.codec}', which this "
            "Cermet does not have; use the version that wrote it."
        ) from error
    name = base if base is not None else archive.base.name
    root = None if base is not None else (folder.absolute() / archive.folder).resolve()
    try:
        given = open_model(parse_model(name), root)
        place = folder_of(parse_model(name), root)
    except InputError as error:
        if base is not None:
            raise
        raise InputError(
            f"The base of '{folder}' is not where it was: {error} Say where it is with --base."
        ) from error
    opened = _Opened(
        folder, archive, codec, _parameters(folder, codec, archive), kept, given, name,
        place, _places(folder, archive),
    )  # fmt: skip
    for tensor, entry in archive.tensors.items():
        _check_base(opened, tensor, entry)
    return opened


def _parameters(folder: Path, codec: Codec, archive: Archive) -> dict[str, Any]:
    if archive.parameters.keys() != codec.parameters.keys():
        raise FormatError(
            f"'{folder}' was made with another version of '{codec.name}': its parameters are "
            f"{', '.join(archive.parameters) or 'none'}, not {', '.join(codec.parameters)}."
        )
    try:
        return {
            p.argument: convert(p, archive.parameters[name], f"'{folder}'")
            for name, p in codec.parameters.items()
        }
    except RecipeError as error:
        raise FormatError(str(error)) from error


def _places(folder: Path, archive: Archive) -> Mapping[str, Place]:
    config = {}
    if (folder / "config.json").is_file():
        config = read_json(folder / "config.json", "the config")
    shapes = {name: tuple(entry.shape) for name, entry in archive.tensors.items()}
    return survey(shapes, config).places


def _check_base(opened: _Opened, tensor: str, entry: Entry) -> None:
    """Refuse what headers show to be another base, and an entry that nothing can be made of."""
    if entry.dtype not in SIZES or (
        entry.how == "expert" and WHOLE not in entry.parts and 0 not in entry.shape
    ):
        raise FormatError(f"'{opened.folder}': the entry of '{tensor}' in its manifest is damaged.")
    known = opened.base.tensors.get(entry.base)
    if entry.how != "expert" and (known is None or list(known.shape) != entry.shape):
        raise MismatchError(
            f"'{opened.base_name}' is not the base of '{opened.folder}': it has no tensor "
            f"'{entry.base}' {entry.shape}."
        )


def _check_apart(opened: _Opened, out: Path) -> None:
    """Refuse an output that would replace what it is made of."""
    used = {t.file.resolve().parent for t in opened.base.tensors.values()}
    used |= {file.resolve().parent for file in opened.base.adapter}
    if Path(os.path.realpath(out)) in {*used, opened.folder.resolve()}:
        raise OutputError(
            f"'{out}' holds what is restored from, so it cannot be the output. Choose another name."
        )


def _run(
    opened: _Opened,
    files: Layout,
    folder: OutputFolder,
    options: Options,
    progress: Progress | None,
) -> tuple[Ran, dict[str, int]]:
    """Decode everything; what it took, and the digest of each tensor that was written."""
    entries = opened.archive.tensors
    coded = {n: files.slots[n].nbytes // SIZES[e.dtype]
             for n, e in entries.items() if e.how == "coded"}  # fmt: skip
    workers = workers_for(opened.codec, coded, options, beside=2.0)
    jobs: list[DecodeJob] = []

    def work(writer: ShardWriter, told: Progress) -> None:
        jobs.extend(_job(opened, n, e, writer, partial(told, n)) for n, e in entries.items())
        executor_for(workers).run(jobs)

    ran = run_once(folder, files, work, progress)
    return ran, {job.name: job.digests.total.get("out", 0) for job in jobs}


def _job(
    opened: _Opened,
    name: str,
    entry: Entry,
    writer: ShardWriter,
    progress: Callable[[int], None],
) -> DecodeJob:
    base = None if entry.how == "expert" else Input(opened.base, entry.base)
    return DecodeJob(
        opened.places[name], entry, opened.codec, base, opened.kept, opened.parameters,
        ShardTarget(writer, name), archive=str(opened.folder), base_name=opened.base_name,
        seed=opened.archive.seed, progress=progress,
    )  # fmt: skip


def _write_beside(
    opened: _Opened,
    tensors: Mapping[str, Any],
    folder: OutputFolder,
    ran: Ran,
    options: Options,
) -> None:
    """Config, tokenizer and other files, model card, record."""
    if (opened.folder / "config.json").is_file():
        shutil.copyfile(opened.folder / "config.json", folder.work / "config.json")
    carry_files(opened.folder, opened.folder, folder.work)
    name, whole = opened.base_name, os.path.abspath(opened.folder)
    origins = [
        origin_of(name, "model", opened.base_folder),
        origin_of(str(opened.folder), "model", opened.folder),
    ]
    models = [_model(name, opened.base)]
    if opened.kept is not None:
        models.append(_model(whole, opened.kept))
    card = unpacked_card(opened.archive.expert.name, name, opened.codec, origins, models)
    (folder.work / "README.md").write_text(card, "utf-8")
    asked = {"restore": {"archive": whole, "base": name}}
    record = record_once(asked, tensors, models, origins, folder, ran, options)
    write_json(folder.work / RECORD, record)


def _model(name: str, checkpoint: Checkpoint) -> dict[str, Any]:
    return {"name": name, "path": checkpoint.path, "files": shards_of(checkpoint)}


def _tensors(
    opened: _Opened, files: Layout, digests: Mapping[str, int]
) -> dict[str, dict[str, Any]]:
    """What the record says of every tensor."""
    return {
        name: {
            "shard": files.shard_of(name),
            "dtype": entry.dtype,
            "shape": entry.shape,
            "role": entry.role,
            "digest": digest_hex(digests[name], files.slots[name].nbytes),
            "method": "copy" if entry.how == "expert" else "restore",
            "sources": [],
        }
        for name, entry in opened.archive.tensors.items()
    }
