"""`transplant`: a model with the tokenizer of another one."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cermet.anatomy import survey, vocabulary_keys
from cermet.checkpoints.carry import carry_files, tokenizer_files
from cermet.checkpoints.dtypes import FLOATS, SIZES, TORCH
from cermet.checkpoints.front_matter import CARD
from cermet.checkpoints.header import read_json
from cermet.checkpoints.hub import locate
from cermet.checkpoints.origin import Origin, Part, origin_of
from cermet.checkpoints.reader import Checkpoint, read_config
from cermet.checkpoints.tokenizer import Tokenizer, read_tokenizer
from cermet.checkpoints.writer import Layout, ShardWriter, layout
from cermet.core.errors import (
    BudgetError,
    DiskError,
    InputError,
    MismatchError,
    OutputError,
)
from cermet.core.fingerprint import digest_bytes, digest_hex
from cermet.core.types import Role
from cermet.engine.blocks import Input
from cermet.engine.card import transplant_card
from cermet.engine.copy import CopyJob
from cermet.engine.done import Done
from cermet.engine.folder import RECORD, OutputFolder
from cermet.engine.grafts import Grafts, find_grafts, vocabulary_of
from cermet.engine.licences import compare_licences
from cermet.engine.memory import available_memory
from cermet.engine.once import Progress, Ran, record_once, run_once
from cermet.engine.options import DEFAULT_SHARD, Options, executor_for
from cermet.engine.record import write_json
from cermet.engine.restore import Digests
from cermet.engine.shards import digest_of, shards_of, stored
from cermet.engine.target import ShardTarget
from cermet.engine.transplant import (
    Approximation,
    Matrix,
    Sparse,
    TransplantJob,
    Vocabulary,
    moved_vector,
    summary,
)
from cermet.maths.pursuit import working_bytes
from cermet.recipes.opening import folder_of, open_model
from cermet.recipes.schema import ModelRef, parse_model
from cermet.recipes.special_ids import SpecialIds

__all__ = ["Transplanted", "transplant"]

_GENERATION = "generation_config.json"
_ERRORS = "transplant.json"
_MODEL: Part = "model"
_TOKENIZER: Part = "tokenizer"
_TEXT_IDS = ("bos", "eos", "pad", "unk", "sep", "cls", "mask", "decoder_start", "forced_bos",
             "forced_eos", "suppress", "begin_suppress")  # fmt: skip


@dataclass(frozen=True)
class Transplanted:
    """What a transplant has written.

    tokens, rows: of the output. shared: rows that are the model's own, of shared tokens and
    padding; approximated: rows that were made of others; unknown: rows that are zero, as neither
    model has them.
    errors: how far each matrix's approximated rows are off, measured in the donor.
    seconds, sync_seconds: of the work, and until all was on the disk. bytes: of all weights.
    """

    path: Path
    tokens: int
    rows: int
    shared: int
    approximated: int
    unknown: int
    errors: tuple[Approximation, ...]
    seconds: float
    sync_seconds: float
    bytes: int
    tensors: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Side:
    """The model or the donor, opened."""

    reference: ModelRef
    folder: Path
    checkpoint: Checkpoint
    tokenizer: Tokenizer


def transplant(
    model: str | Path,
    donor: str | Path,
    out: str | Path,
    *,
    k: int = 64,
    threads: int | None = None,
    shard_size: int = DEFAULT_SHARD,
    overwrite: bool = False,
    progress: Progress | None = None,
    planned: Callable[[int, int], None] | None = None,
) -> Transplanted:
    """Write a model with the tokenizer of another one into the folder `out`.

    Tokens that both have keep the model's rows in embedding and head. The donor's row of any
    other token is written as a sum of at most `k` of its rows of shared tokens, by orthogonal
    matching pursuit, and the new row is the same sum of the model's rows.

    Parameters
    ----------
    model, donor: folders or hub names, each with a tokenizer. Their widths may differ.
    k: how many shared tokens make up a new one at most.
    threads, shard_size, overwrite, progress: as of `merge`.
    planned: gets the bytes and the number of tensors of the output before they are written.

    Raises CermetError in one of its kinds; the output is then as it was before.
    Source: as tokensurgeon of mergekit, with atoms compared by their direction.
    """
    if k < 1:
        raise InputError(f"'k' of a transplant is 1 or more, not {k}.")
    own, theirs = _side(model), _side(donor)
    _check_apart(own, theirs, Path(out))
    grafts = find_grafts(own.checkpoint, theirs.checkpoint)
    embedding = next(iter(grafts.pairs.values()))
    donor_rows = theirs.checkpoint.tensors[embedding.name].shape[0]
    words = vocabulary_of(own.tokenizer, theirs.tokenizer, grafts.rows, donor_rows, k)
    ids = SpecialIds(own.tokenizer.by_id(), theirs.tokenizer.ids, [*_configs(theirs.folder)])
    config = _config(own, ids, len(words.origin))
    options = Options(threads=threads, shard_size=shard_size)
    _check_memory(grafts, words, k, options)
    run = _Transplant(own, theirs, grafts, words, k, options)
    if planned is not None:
        planned(run.files.size, len(run.files.slots))
    with OutputFolder(Path(out), resume=False, overwrite=overwrite) as folder:
        try:
            return run.into(folder, config, ids, progress)
        except OSError as error:
            raise DiskError(f"'{out}' cannot be written: {error.strerror or error}.") from error
        except BaseException:
            folder.discard()
            raise


def _side(name: str | Path) -> _Side:
    reference = parse_model(str(name))
    checkpoint = open_model(reference)
    folder = folder_of(reference)
    if not tokenizer_files(folder):
        raise InputError(f"'{name}' holds no tokenizer.")
    return _Side(reference, folder, checkpoint, read_tokenizer(folder))


def _check_apart(own: _Side, theirs: _Side, out: Path) -> None:
    """Refuse an output that would replace what it is made of."""
    for side in (own, theirs):
        used = {side.folder, *(t.file.resolve().parent for t in side.checkpoint.tensors.values())}
        if os.path.realpath(out) in map(os.path.realpath, used):
            raise OutputError(
                f"'{out}' holds '{side.reference}', so it cannot be the output. Choose another "
                "name."
            )


def _configs(folder: Path) -> Iterator[Mapping[str, Any]]:
    """What a folder says of single tokens; what its generation says counts first."""
    if (folder / _GENERATION).is_file():
        yield read_json(folder / _GENERATION, "the generation config")
    yield read_config(folder)


def _config(own: _Side, ids: SpecialIds, rows: int) -> dict[str, Any]:
    """The model's config with the new number of rows and the donor's ids."""
    before = dict(own.checkpoint.config)
    config = copy.deepcopy(before)
    for *above, key in vocabulary_keys(config):
        place = config
        for step in above:
            place = place[step]
        place[key] = rows
    config = ids.told(config)
    lost = [key for key in before if before[key] is not None and config[key] is None]
    for key in lost:
        if not key.startswith(_TEXT_IDS):
            raise MismatchError(
                f"The config of '{own.reference}' names a token by '{key}' that the donor's "
                "tokenizer does not have, and the model does not work without it."
            )
    return config


def _check_memory(grafts: Grafts, words: Vocabulary, k: int, options: Options) -> None:
    """Refuse what would be killed for memory, while nothing is written yet."""
    free = available_memory()
    if free is None or not len(words.new):
        return
    widths = [m.checkpoint.tensors[m.name].shape[1] for m in grafts.pairs.values()]
    needed = max(working_bytes(len(words.atoms), width, k, options.workers()) for width in widths)
    if needed > free:
        raise BudgetError(
            f"Approximating rows from {len(words.atoms):,} shared tokens takes {needed / 1e9:.1f} "
            f"GB, but {free / 1e9:.1f} GB are free; take fewer threads or a smaller k."
        )


class _Transplant:
    """One transplant that is ready to be run."""

    def __init__(
        self,
        own: _Side,
        theirs: _Side,
        grafts: Grafts,
        words: Vocabulary,
        k: int,
        options: Options,
    ) -> None:
        self.own, self.theirs, self.grafts, self.words = own, theirs, grafts, words
        self.k, self.options = k, options
        self.digests, self.sparse = Digests(), dict[str, Sparse]()
        rows = len(words.origin)
        checkpoint = own.checkpoint
        slots = [grafts.slot(checkpoint, name, rows) for name in checkpoint.tensors]
        self.files: Layout = layout(slots, options.shard_size)

    def into(
        self,
        folder: OutputFolder,
        config: Mapping[str, Any],
        ids: SpecialIds,
        progress: Progress | None,
    ) -> Transplanted:
        """Write the output and publish it."""
        folder.check_space(self.files.size)
        ran = run_once(folder, self.files, self._work, progress)
        names = self.theirs.tokenizer.by_id()
        errors = tuple(summary(name, self.sparse[name], names) for name in self.grafts.pairs)
        if config:
            write_json(folder.work / "config.json", config)
        if _GENERATION in carry_files(self.own.folder, self.theirs.folder, folder.work):
            generation = read_json(folder.work / _GENERATION, "the generation config")
            write_json(folder.work / _GENERATION, ids.told(generation))
        warnings = self._describe(folder, ran, errors)
        folder.publish()
        return Transplanted(
            folder.out, **self.counts, errors=errors, seconds=ran.seconds, bytes=self.files.size,
            sync_seconds=ran.sync_seconds, tensors=len(self.files.slots), warnings=warnings,
        )  # fmt: skip

    @property
    def counts(self) -> dict[str, int]:
        """How many tokens and rows there are, and where the rows come from."""
        return {
            "tokens": len(self.theirs.tokenizer.ids),
            "rows": len(self.words.origin),
            "shared": int((self.words.origin >= 0).sum()),
            "approximated": len(self.words.new),
            "unknown": len(self.words.unknown),
        }

    def _describe(
        self, folder: OutputFolder, ran: Ran, errors: Sequence[Approximation]
    ) -> tuple[str, ...]:
        """Write the errors of all tokens, the card and the record; what there is to warn of."""
        listed = {each.tensor: each.by_token for each in errors}
        write_json(folder.work / _ERRORS, {"k": self.k, **self.counts, "errors": listed})
        origins, models = self._origins(), self._models()
        asked = {"model": str(self.own.reference), "donor": str(self.theirs.reference), "k": self.k}
        card = transplant_card(asked, self.counts, errors, origins, models)
        (folder.work / CARD).write_text(card, "utf-8")
        warnings = [f"A model card: {o.card.problem}." for o in origins if o.card.problem]
        warnings += compare_licences(origins).warnings()
        record = record_once(
            {"transplant": asked}, self._tensors(), models, origins, folder, ran, self.options
        )
        short = {each.tensor: each.record() for each in errors}
        notes = {"warnings": warnings, "transplant": {**self.counts, "errors": short}}
        write_json(folder.work / RECORD, {**record, **notes})
        return tuple(warnings)

    def _work(self, writer: ShardWriter, told: Progress) -> None:
        """One matrix after the other, each with its dictionary in memory; then all copies."""
        executor = executor_for(self.options.workers())
        for name, donor in self.grafts.pairs.items():
            model = Matrix(self.own.checkpoint, name)
            target = ShardTarget(writer, name)
            finished = partial(self._finished, told, name)
            job = TransplantJob(name, self.words, model, donor, self.k, target, finished)
            executor.run([job])
            self.sparse[name] = job.sparse
        for name, matrix in self.grafts.vectors.items():
            self._vector(writer, name, matrix)
        executor.run(list(self._copies(writer, told)))

    def _finished(self, told: Progress, name: str, done: Done) -> None:
        self.digests.count(name, done.output)
        told(name, (done.stop - done.start) * SIZES[self.files.slots[name].dtype])

    def _vector(self, writer: ShardWriter, name: str, matrix: str) -> None:
        info = self.own.checkpoint.tensors[name]
        values = self.own.checkpoint.block(name, 0, info.numel)
        moved = moved_vector(values, self.words, self.sparse[matrix], TORCH[info.dtype])
        ShardTarget(writer, name).put(0, moved)
        self.digests.count(name, digest_bytes(moved.view(torch.uint8).numpy(), 0))

    def _copies(self, writer: ShardWriter, told: Progress) -> Iterator[CopyJob]:
        shapes = {name: info.shape for name, info in self.own.checkpoint.tensors.items()}
        places = survey(shapes, self.own.checkpoint.config).places
        for name, info in self.own.checkpoint.tensors.items():
            if name in self.grafts.pairs or name in self.grafts.vectors:
                continue
            finite = info.dtype in FLOATS and places[name].role is not Role.BUFFER
            yield CopyJob(
                name, info.numel, [Input(self.own.checkpoint, name)], ShardTarget(writer, name),
                finite=finite, finished=partial(self._finished, told, name),
            )  # fmt: skip

    def _tensors(self) -> dict[str, Any]:
        """What the record says of every tensor."""
        found = {}
        for name, slot in self.files.slots.items():
            new = name in self.grafts.pairs or name in self.grafts.vectors
            found[name] = {
                "shard": self.files.shard_of(name),
                "dtype": slot.dtype,
                "shape": list(slot.shape),
                "digest": digest_hex(self.digests.total.get(name, 0), slot.nbytes),
                "method": "transplant" if new else "copy",
                "sources": [],
            }
        return found

    def _models(self) -> list[dict[str, Any]]:
        """Model and donor with their files; what was not copied whole is read for its digest."""
        below = stored(self.own.checkpoint)
        read, new = {}, {*self.grafts.pairs, *self.grafts.vectors}
        for name, info in below.tensors.items():
            copied = self.own.checkpoint.exact and name not in new
            read[name] = (
                digest_hex(self.digests.total.get(name, 0), info.nbytes)
                if copied
                else digest_of(below, name)[0]
            )
        given = {m.name for m in self.grafts.pairs.values()}
        theirs = stored(self.theirs.checkpoint)
        donated = {name: digest_of(theirs, name)[0] for name in sorted(given)}
        sides = ((self.own, read), (self.theirs, donated))
        return [
            {
                "name": str(side.reference),
                "path": side.checkpoint.path,
                "files": shards_of(side.checkpoint, digests),
            }
            for side, digests in sides
        ]

    def _origins(self) -> list[Origin]:
        """Where model and donor come from, and adapters on them."""
        found = []
        for side, part in ((self.own, _MODEL), (self.theirs, _TOKENIZER)):
            given = side.reference
            found.append(origin_of(given.path, part, side.folder))
            if given.lora is not None:
                folder = locate(given.lora, given.lora_revision)
                found.append(origin_of(given.lora, "adapter", folder))
        return found
