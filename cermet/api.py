"""The public verbs of one merge. Here and in `soups` alone, rooms are wired together."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import torch

from cermet.adapters import (
    for_adapters,
    make_again,
    merge_adapters,
    plan_adapters,
    write_adapter,
)
from cermet.checkpoints.carry import carry_files, chat_template
from cermet.checkpoints.header import read_json
from cermet.checkpoints.reader import Checkpoint, open_checkpoint, open_parts
from cermet.checkpoints.tokenizer_edit import write_tokenizer
from cermet.core.device import check_device
from cermet.core.errors import (
    DiskError,
    FormatError,
    InputError,
    MismatchError,
    OutputError,
    RecipeError,
)
from cermet.engine.archive import is_archive
from cermet.engine.card import model_card
from cermet.engine.copy import check_copies
from cermet.engine.findings import Kind
from cermet.engine.folder import RECORD, OutputFolder, leftovers
from cermet.engine.licences import compare_licences
from cermet.engine.manifest import MANIFEST, manifest_of
from cermet.engine.memory import DEFAULT_BUDGET
from cermet.engine.options import DEFAULT_SHARD, Options
from cermet.engine.record import record_in, record_of, run_folder, versions, write_json
from cermet.engine.run import PARTS, Finished, merge_plan, parts_layout, plan_layout
from cermet.engine.shards import models_record
from cermet.engine.tensors import merge_tensors
from cermet.engine.verify import (
    Findings,
    check_again,
    check_archive,
    check_beside,
    check_digests,
    check_parts,
    explain_refusal,
)
from cermet.recipes.adapters import AdapterPlan
from cermet.recipes.assembly import labels_of
from cermet.recipes.document import Document, from_data, read_document
from cermet.recipes.opening import LazyTensors, folder_of, open_model
from cermet.recipes.origins import origins_of
from cermet.recipes.parts import check_recipe
from cermet.recipes.plan import Plan
from cermet.recipes.resolve import resolve
from cermet.recipes.schema import ModelRef, Recipe, parse_model, parse_recipe
from cermet.recipes.vocabulary import GENERATION, align, differ, doubts

__all__ = [
    "Merged",
    "clean",
    "merge",
    "merge_adapters",
    "merge_tensors",
    "open",
    "plan",
    "verify",
]

RecipeLike = str | Path | Mapping[str, Any]
Progress = Callable[[str, int], None]


@dataclass(frozen=True)
class Merged:
    """What a merge has written.

    seconds: of the merge; sync_seconds: waiting for the disk; bytes: of all weight files.
    parts_bytes, experts: of an assembly, the bytes of what it keeps of its experts, and their
    names. lost: of adapters, the share of the norm of each module's delta that its rank left out.
    """

    path: Path
    seconds: float
    sync_seconds: float
    bytes: int
    peak_bytes: int
    tensors: int
    resumed_pieces: int
    warnings: tuple[str, ...] = field(default=())
    parts_bytes: int = 0
    experts: tuple[str, ...] = ()
    lost: Mapping[str, float] = field(default_factory=dict)


def open(path: str | Path) -> Mapping[str, torch.Tensor]:
    """A checkpoint as a lazy mapping from names to tensors.

    `path` is a folder, a .safetensors file, a hub name, or `model+adapter`. A tensor is read
    when it is asked for; tensors of safetensors files are views of the file.
    """
    return LazyTensors(open_model(parse_model(str(path))))


def _document(recipe: RecipeLike) -> Document:
    return from_data(recipe) if isinstance(recipe, Mapping) else read_document(Path(recipe))


def plan(
    recipe: RecipeLike, *, compat: bool = False, root: Path | None = None
) -> Plan | AdapterPlan:
    """Resolve a recipe against the headers of its checkpoints; nothing is read or written.

    `recipe` is a file or a mapping. With `compat`, keys and parameters that mergekit would
    ignore are warnings of the plan instead of errors. Relative paths of models start from
    the current folder, or from `root` if they are found there. Where the models are adapters,
    the plan is that of an adapter.
    """
    document = _document(recipe)
    parsed, warnings = parse_recipe(document, compat=compat)
    if for_adapters(parsed, document, root):
        adapters = plan_adapters(parsed, document, compat=compat, root=root)
        return replace(adapters, warnings=(*warnings, *adapters.warnings))
    check_recipe(parsed, document, compat=compat)  # before anything is fetched or opened
    _check_beside(parsed, document)

    @cache  # the hub is asked once
    def folder(model: ModelRef) -> Path:
        return folder_of(model, root)

    aligned = align(parsed, document, lambda m: open_model(m, root), folder)
    found = resolve(
        parsed, document, aligned.open, lambda one, other: differ(one, other, folder), compat=compat
    )
    if aligned.outcome is not None:
        if found.method.restore is not None and aligned.outcome.shares:
            raise RecipeError(
                f"'{found.method.name}' makes an assembly, whose experts are restored from the "
                "base as it is stored, so it cannot change vocabularies; give all models one "
                "first, each by a recipe of its own."
            )
        config = aligned.outcome.config(found.config)
        found = replace(found, vocabulary=aligned.outcome, config=config)
    models = list(zip(found.models, found.checkpoints, strict=False))
    unsure = doubts(models, folder) if parsed.vocabulary is None else ()
    origins = origins_of(parsed, root)
    told = [f"A model card: {o.card.problem}." for o in origins if o.card.problem]
    told += compare_licences(origins).warnings()
    said = (*warnings, *aligned.warnings, *unsure, *found.warnings, *told)
    return replace(found, origins=origins, warnings=said)


def _check_beside(recipe: Recipe, document: Document) -> None:
    """Refuse a chat template that cannot be one, and not after the merge."""
    if recipe.chat_template is not None:
        try:
            chat_template(recipe.chat_template, [])
        except InputError as error:
            raise RecipeError(f"{document.at(('chat_template',))}: {error}") from error


def merge(
    recipe: RecipeLike,
    out: str | Path,
    *,
    memory: int = DEFAULT_BUDGET,
    threads: int | None = None,
    device: str = "cpu",
    shard_size: int = DEFAULT_SHARD,
    resume: bool = False,
    overwrite: bool = False,
    compat: bool = False,
    block: int | None = None,
    executor: Literal["auto", "threads", "processes"] = "auto",
    notes: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    planned: Callable[[Plan | AdapterPlan], None] | None = None,
) -> Merged:
    """Run a recipe and write the merged checkpoint, or adapter, into the folder `out`.

    Parameters
    ----------
    memory: bytes of working memory. threads: all cores of this process by default.
    device: cpu or cuda. shard_size: bytes of weights in one file at most.
    resume: go on from what a killed run has left. overwrite: replace an output of Cermet's.
    compat: only warn of keys that mergekit ignores. block: elements of a block, and executor:
    whether workers are threads or processes forked from this one; for tests and measurements.
    notes: what else the record shall hold, such as how the numbers of the recipe were found.
    progress: gets a tensor's name and how many new bytes of it are finished.
    planned: gets the plan before anything is written.

    Raises CermetError in one of its kinds; the output is then as it was before.
    """
    check_device(device)
    options = Options(memory, threads, device, shard_size, resume, overwrite, block, executor)
    resolved = plan(recipe, compat=compat)
    if planned is not None:
        planned(resolved)
    document = _document(recipe)
    if isinstance(resolved, AdapterPlan):
        text = _as_yaml(document.data)
        done = write_adapter(
            resolved, document.data, text, Path(out), options, progress, notes or {}
        )
        return Merged(
            Path(out), done.seconds, done.sync_seconds, done.bytes, done.peak, done.tensors, 0,
            resolved.warnings, lost=done.lost,
        )  # fmt: skip
    check_apart(resolved, Path(out))
    check_copies(resolved)
    with OutputFolder(Path(out), resume=resume, overwrite=overwrite) as folder:
        try:
            _check_space(resolved, options, folder)
            finished = merge_plan(resolved, folder, options, progress)
            _write_beside(resolved, document, finished, options, folder, notes or {})
            folder.publish()
        except OSError as error:
            raise DiskError(f"'{out}' cannot be written: {error.strerror or error}.") from error
    return Merged(
        path=Path(out),
        seconds=finished.seconds,
        sync_seconds=finished.sync_seconds,
        bytes=finished.layout.size,
        peak_bytes=finished.peak_bytes,
        tensors=len(resolved.tasks),
        resumed_pieces=finished.resumed_pieces,
        warnings=resolved.warnings,
        parts_bytes=finished.parts.size if finished.parts is not None else 0,
        experts=labels_of(resolved),
    )


def check_apart(resolved: Plan, out: Path) -> None:
    """Refuse an output that would replace what it is made of."""
    used = {str(m): folder_of(m) for m in resolved.models}
    if resolved.vocabulary is not None:
        used[resolved.vocabulary.source] = resolved.vocabulary.owner
    for reference, checkpoint in zip(resolved.names, resolved.checkpoints, strict=True):
        for file in {*(t.file for t in checkpoint.tensors.values()), *checkpoint.adapter}:
            used[f"{reference}: {file.name}"] = file.resolve().parent
    for name, folder in used.items():
        if os.path.realpath(out) == os.path.realpath(folder):
            raise OutputError(
                f"'{out}' holds '{name}', which is merged, so it cannot be the output. "
                "Choose another name."
            )


def _check_space(resolved: Plan, options: Options, folder: OutputFolder) -> None:
    parts = parts_layout(resolved, options.shard_size)
    needed = plan_layout(resolved, options.shard_size).size + (parts.size if parts else 0)
    present = sum(p.stat().st_size for p in folder.work.glob("*.safetensors"))
    folder.check_space(needed - present)


def _write_beside(
    resolved: Plan,
    document: Document,
    finished: Finished,
    options: Options,
    folder: OutputFolder,
    notes: Mapping[str, Any],
) -> None:
    """Config, tokenizer and other files, model card, record."""
    donor = folder_of(resolved.models[resolved.donor])
    words = resolved.vocabulary
    if resolved.config:
        write_json(folder.work / "config.json", resolved.config)
    carried = carry_files(donor, donor if words is None else words.owner, folder.work)
    if words is not None and words.ids is not None and GENERATION in carried:
        said = read_json(folder.work / GENERATION, "the generation config")
        write_json(folder.work / GENERATION, words.generation(said))
    if words is not None and words.data is not None:
        write_tokenizer(words.data, words.left_out, folder.work)
    if resolved.recipe.chat_template is not None:
        text = chat_template(resolved.recipe.chat_template, [folder_of(m) for m in resolved.models])
        if text is not None:
            (folder.work / "chat_template.jinja").write_text(text, "utf-8")
    manifest = manifest_of(resolved, finished)
    if manifest is not None:
        write_json(folder.work / MANIFEST, manifest)
    models = models_record(resolved, finished)
    card = model_card(resolved, _as_yaml(document.data), models, versions())
    (folder.work / "README.md").write_text(card, "utf-8")
    record = record_of(resolved, finished, options, document.data, models, folder)
    write_json(folder.work / RECORD, {**record, "notes": notes} if notes else record)


def _as_yaml(data: Any) -> str:
    from io import StringIO

    from ruamel.yaml import YAML

    stream = StringIO()
    yaml: Any = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # keys in the order of the recipe
    yaml.dump(data, stream)
    return stream.getvalue()


def verify(
    path: str | Path,
    *,
    seed: int = 0,
    threads: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Findings:
    """Check a folder that Cermet wrote: digests, finite numbers, and tensors made again.

    At least one tensor of every role and every shard, chosen by `seed`, is made again from
    the recipe and compared byte for byte; sources that are gone make that a problem.
    """
    folder = Path(path)
    if is_archive(folder):
        return check_archive(folder, progress)
    record = record_in(folder)
    check_device(record["run"]["device"])
    options = Options(threads=threads, device=record["run"]["device"])
    found = check_digests(open_checkpoint(folder), record, progress)
    if record.get("parts"):
        found.take(check_parts(open_parts(folder, PARTS), record, progress))
    found.take(check_beside(folder, record))
    if {"restore", "transplant"} & record["recipe"].keys():
        return found  # there is no recipe of a merge to make it again from
    root, edited = run_folder(folder, record), Kind.RECIPE in found.kinds
    try:
        resolved = plan(record["recipe"], compat=True, root=root)
    except (InputError, MismatchError, FormatError) as error:
        found.take(explain_refusal(error, _named(record, root), root, edited=edited))
        return found
    if isinstance(resolved, AdapterPlan):
        found.take(make_again(folder, resolved, record, options, seed, edited=edited))
    else:
        found.take(check_again(resolved, record, options, seed, edited=edited))
    return found


def _named(record: Mapping[str, Any], root: Path) -> list[tuple[str, Callable[[], Checkpoint]]]:
    """The models of a record's recipe, each with what opens it; none where it cannot be read."""
    try:
        recipe, _ = parse_recipe(from_data(record["recipe"]), compat=True)
    except InputError:
        return []
    return [(m.path, partial(open_model, m, root)) for m in recipe.references()]


def clean(folder: str | Path, *, remove: bool) -> list[tuple[Path, int]]:
    """What abandoned runs have left in a folder, with its bytes; removed if asked."""
    if not Path(folder).is_dir():
        raise InputError(f"There is no folder '{folder}'.")
    try:
        return leftovers(Path(folder), remove=remove)
    except OSError as error:
        raise DiskError(f"'{folder}' cannot be cleaned: {error.strerror or error}.") from error
