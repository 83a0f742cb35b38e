"""`inspect` and `compare`: what a checkpoint is, and whether several can be combined."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cermet.analyse.adapter import Change, adapter_of, is_adapter, measured_changes
from cermet.analyse.comparison import (
    Compared,
    Comparison,
    Expert,
    Start,
    between,
    experts_of,
    starts,
)
from cermet.analyse.contents import contents_of
from cermet.analyse.findings import Inspection, Made, findings_of
from cermet.analyse.fitness import Kept, advice_for, methods_for
from cermet.analyse.likeness import config_differences, twins_of
from cermet.analyse.opened import OpenedModel
from cermet.analyse.products import BYTES_EACH as PRODUCT_BYTES
from cermet.analyse.products import WINDOW, Products, products_of
from cermet.analyse.relations import by_depth, by_role, group, pairs_of, relations
from cermet.analyse.spaces import chosen, spaces_of
from cermet.analyse.verdicts import (
    about_broken,
    about_deltas,
    about_form,
    about_pairs,
    about_tokens,
    likelier_base,
    refusal,
    verdict_of,
)
from cermet.analyse.vocabulary import VocabularyDifference, differ, vocabulary_of
from cermet.analyse.walk import Window, threads_within, walk, windows
from cermet.analyse.weights import repeats, same_bytes, summed, tensor_records
from cermet.api import plan
from cermet.checkpoints.lora import AdaptedCheckpoint
from cermet.core.errors import DataError, FormatError, InputError
from cermet.engine.folder import RECORD
from cermet.engine.manifest import MANIFEST, read_manifest
from cermet.engine.memory import DEFAULT_BUDGET, keep_freed_memory
from cermet.engine.record import record_in
from cermet.recipes.opening import folder_of
from cermet.recipes.schema import ModelRef, parse_model

__all__ = ["Comparison", "Inspection", "compare", "inspect"]

Progress = Callable[[str, int], None]


def inspect(
    path: str | Path,
    *,
    headers: bool = False,
    memory: int = DEFAULT_BUDGET,
    threads: int | None = None,
    started: Callable[[int, int], None] | None = None,
    progress: Progress | None = None,
) -> Inspection:
    """What a checkpoint is: its parts, its vocabulary, and what is broken or dead in it.

    Parameters
    ----------
    path: a folder, a file of weights, a hub name, `model+adapter`, or the folder of an adapter.
    headers: do not read the weights.
    memory: bytes that are held of the weights at most. threads: all cores by default.
    started: gets the bytes and the tensors that will be read. progress: gets a tensor's name and
        how many more bytes of it have been read.

    Raises InputError where there is no such model, FormatError where it is damaged.
    """
    reference = parse_model(str(path))
    folder = folder_of(reference)
    if reference.lora is None and is_adapter(folder):
        alone = adapter_of(folder, None, read=not headers)
        return Inspection(str(path), "adapter", not headers, None, None, alone, None)
    looked = _Look(reference, memory, threads, None if headers else progress)
    if started is not None and not headers:
        started(looked.bytes, len(looked.checkpoint.tensors))
    keep_freed_memory()
    return looked.inspection(str(path), read=not headers)


class _Look:
    """A model that is being looked at, with the adapter on it."""

    def __init__(
        self, reference: ModelRef, memory: int, threads: int | None, progress: Progress | None
    ) -> None:
        self.folder = folder_of(reference)
        opened = OpenedModel(reference)
        self.base, self.checkpoint, self.adapter = opened.base, opened.checkpoint, opened.adapter
        self.trouble = opened.trouble
        self.contents, self.anatomy = contents_of(self.checkpoint, opened.stored)
        self.memory, self.threads, self.progress = memory, threads, progress

    @property
    def bytes(self) -> int:
        """Bytes that are read; what an adapter changes is read twice."""
        again = sum(self.checkpoint.tensors[n].nbytes for n in self._touched)
        return sum(t.nbytes for t in self.checkpoint.tensors.values()) + again

    @property
    def _touched(self) -> frozenset[str]:
        checkpoint = self.checkpoint
        return checkpoint.touched if isinstance(checkpoint, AdaptedCheckpoint) else frozenset()

    def inspection(self, path: str, *, read: bool) -> Inspection:
        """Everything that is known of it."""
        checkpoint, anatomy = self.checkpoint, self.anatomy
        options: dict[str, Any] = {
            "memory": self.memory, "threads": self.threads, "progress": self.progress,
        }  # fmt: skip
        tensors = tensor_records(checkpoint, anatomy, read=read, **options)
        changes: tuple[Change, ...] | None = None
        if self.adapter is not None and read:
            changes = measured_changes(self.base, checkpoint, self._touched, anatomy, **options)
        shapes = {name: info.shape for name, info in checkpoint.tensors.items()}
        vocabulary, _ = vocabulary_of(self.folder, checkpoint.config, shapes, anatomy)
        duplicates, repeated = same_bytes(tensors), repeats(tensors)
        made, trouble = _made(self.folder)
        findings = findings_of(
            self.contents, anatomy, checkpoint.config, vocabulary, tensors, duplicates, repeated
        )
        return Inspection(
            path=path,
            kind="assembly" if made is not None and made.experts else "model",
            read=read,
            contents=replace(self.contents, roles=summed(self.contents, tensors)),
            vocabulary=vocabulary,
            adapter=adapter_of(self.adapter, changes or (), read=read) if self.adapter else None,
            made=made,
            tensors=tensors,
            duplicates=duplicates,
            repeated_layers=repeated,
            findings=(*self.trouble, *trouble, *findings),
        )


def compare(
    *models: str | Path,
    base: str | Path | None = None,
    subspaces: int = 12,
    memory: int = DEFAULT_BUDGET,
    threads: int | None = None,
    started: Callable[[int, int], None] | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Whether checkpoints can be combined, and how: their form, ancestors, deltas and tokens.

    Parameters
    ----------
    models: two or more, as recipes name them. base: the one that the others were tuned from; the
        first by default.
    subspaces: of so many matrices the leading subspaces of the deltas are compared; 0 for none.
    memory, threads, started, progress: as of `inspect`.

    Raises InputError where a model is missing, is named twice or is an adapter without its base,
    FormatError where one is damaged, MismatchError where one is quantised beyond reading.
    """
    paths = [str(m) for m in models if base is None or str(m) != str(base)]
    paths = paths if base is None else [str(base), *paths]
    looked = _Beside(_checked(paths), subspaces, base is not None)
    if started is not None:
        started(looked.bytes, len(looked.twins.shared))
    keep_freed_memory()
    return looked.comparison(memory, threads, progress)


def _checked(paths: list[str]) -> list[str]:
    if len(paths) < 2:
        raise InputError("A comparison takes two models or more; `cermet inspect` looks at one.")
    twice = next((path for path in paths if paths.count(path) > 1), None)
    if twice is not None:
        raise InputError(f"'{twice}' is named twice.")
    return paths


class _Beside:
    """Models that are being compared, the base first."""

    def __init__(self, paths: list[str], subspaces: int, base_named: bool) -> None:
        self.base_named = base_named
        self.paths, self.names = paths, short_names(paths)
        self.references = [parse_model(path) for path in paths]
        opened = [OpenedModel(reference) for reference in self.references]
        for one in opened:
            if one.packed is not None:
                raise one.packed
        self.checkpoints = [one.checkpoint for one in opened]
        looked = [contents_of(one.checkpoint, one.stored) for one in opened]
        self.contents, self.anatomies = [c for c, _ in looked], [a for _, a in looked]
        self.anatomy = self.anatomies[0]
        self.twins = twins_of(paths, self.checkpoints, self.anatomies)
        self.subspaces = subspaces

    @property
    def bytes(self) -> int:
        """Bytes that will be read, about: some matrices twice, which the first pass will tell."""
        again = chosen(self.anatomy.places, list(self.twins.shared), self.subspaces)
        return sum(map(self._bytes, [*self.twins.shared, *again]))

    def _bytes(self, name: str) -> int:
        twins = zip(self.checkpoints, self.twins.shared[name], strict=True)
        return sum(checkpoint.tensors[twin].nbytes for checkpoint, twin in twins)

    def comparison(self, memory: int, threads: int | None, progress: Progress | None) -> Comparison:
        """Everything that is known of them together."""
        found = self._products(memory, threads, progress)
        spaces = spaces_of(
            self.checkpoints, self.twins.shared, self.anatomy.places, self._changed(found),
            memory=memory, threads=threads,
            progress=None if progress is None else lambda n: progress(n, self._bytes(n)),
        )  # fmt: skip
        pairs = pairs_of(self.names, self.anatomy.places, found) if found else ()
        first = starts(self.names, found) if found else ()
        experts = experts_of(self.names, found, spaces) if found else ()
        roles = by_role(self.anatomy.places, found)
        models = self._models()
        configs = config_differences([c.config for c in self.checkpoints])
        tokens = self._tokens()
        verdict = verdict_of(len(found), pairs)
        broken = about_broken(self.names, found)
        refused = refusal(verdict, pairs, self._refused(), broken)
        likelier = likelier_base(pairs, first)
        advice, recipe = self._advice(experts, refused, likelier)
        return Comparison(
            models=models,
            shared=len(found),
            same_form=not self.twins.differences,
            tensor_differences=self.twins.differences,
            config_differences=configs,
            vocabularies=tokens,
            pairs=pairs,
            deltas=group("all", list(found.values())) if found else None,
            experts=experts,
            between=between(self.names, found, spaces) if found else (),
            roles=roles,
            layers=by_depth(self.anatomy, found),
            spaces=spaces,
            starts=first,
            tensors=tuple(relations(self.anatomy, found)),
            methods=methods_for(len(self.paths), refused),
            recipe=recipe,
            verdict=verdict,
            findings=(
                *about_form(models, len(found), self.twins.differences, configs),
                *about_tokens(self.names[0], tokens),
                *about_pairs(pairs, first),
                *broken,
                *(() if broken else about_deltas(experts, roles, spaces)),
            ),
            advice=advice,
        )

    def _changed(self, found: Mapping[str, Products]) -> list[str]:
        """The matrices to look at: those that all experts changed, or else any."""
        for enough in (all, any):
            names = [n for n, p in found.items() if enough((~p.equal[0, 1:]).tolist())]
            if picked := chosen(self.anatomy.places, names, self.subspaces):
                return picked
        return []

    def _products(
        self, memory: int, threads: int | None, progress: Progress | None
    ) -> dict[str, Products]:
        def work(name: str, window: Window) -> Products:
            twins = zip(self.checkpoints, self.twins.shared[name], strict=True)
            return products_of([checkpoint.block(twin, *window) for checkpoint, twin in twins])

        def seen(name: str, elements: int) -> None:
            if progress is not None:
                numel = self.checkpoints[0].tensors[name].numel
                progress(name, self._bytes(name) * elements // numel)

        each = len(self.paths) * WINDOW * PRODUCT_BYTES
        count = threads_within(threads, memory, each, f"A window of {len(self.paths)} models")
        numels = {n: self.checkpoints[0].tensors[n].numel for n in self.twins.shared}
        return walk({n: windows(k, WINDOW) for n, k in numels.items()}, work, count, seen)

    def _models(self) -> tuple[Compared, ...]:
        return tuple(
            Compared(
                path=path,
                name=name,
                architecture=c.architecture,
                model_type=c.model_type,
                parameters=c.parameters,
                tensors=c.tensors,
                layers=a.stacks[a.main] if a.main is not None else 0,
                dtypes=tuple(d.dtype for d in c.dtypes),
            )
            for path, name, c, a in zip(
                self.paths, self.names, self.contents, self.anatomies, strict=True
            )
        )

    def _tokens(self) -> tuple[VocabularyDifference, ...]:
        found = []
        for reference, checkpoint, anatomy in zip(
            self.references, self.checkpoints, self.anatomies, strict=True
        ):
            shapes = {name: info.shape for name, info in checkpoint.tensors.items()}
            found.append(vocabulary_of(folder_of(reference), checkpoint.config, shapes, anatomy))
        (own, base), *others = found
        said = None if own is None or base is not None else f"{self.names[0]}: {own.problem}"
        return tuple(
            differ(name, base, tokenizer, said or (known.problem if known else None))
            for name, (known, tokenizer) in zip(self.names[1:], others, strict=True)
            if known is not None or base is not None
        )

    def _refused(self) -> str | None:
        """What stops a plan of the average of all."""
        models = [{"model": path, "parameters": {"weight": 1.0}} for path in self.paths]
        try:
            plan({"merge_method": "linear", "models": models})
        except (InputError, DataError) as error:
            return str(error).removeprefix("the recipe: ")
        return None

    def _advice(
        self, experts: tuple[Expert, ...], refused: str | None, likelier: Start | None
    ) -> tuple[tuple[str, ...], dict[str, Any] | None]:
        if refused is not None:
            return (), None
        if likelier is not None:
            path = self.paths[self.names.index(likelier.model)]
            return (f"Compare again with --base {path} before you choose a method.",), None
        kept = [expert.kept for expert in experts]
        said, recipe = advice_for(Kept(self.paths[0], self.paths[1:], kept, self.base_named))
        return tuple(said), recipe


def short_names(paths: list[str]) -> list[str]:
    """The last part of every path; whole paths where these are not all different."""
    short = ["+".join(Path(part).name for part in path.split("+")) for path in paths]
    return short if len(set(short)) == len(short) else paths


def _made(folder: Path) -> tuple[Made | None, tuple[str, ...]]:
    """How Cermet made what is in a folder, and what is wrong with its record."""
    try:
        experts: tuple[str, ...] = ()
        kept = 0
        if (folder / MANIFEST).is_file():
            manifest = read_manifest(folder)
            experts, kept = tuple(e.name for e in manifest.experts), manifest.parts_bytes
        if not (folder / RECORD).is_file():
            return None, ()
        record = record_in(folder)
    except FormatError as error:
        return None, (str(error),)
    recipe = record["recipe"]
    steps = recipe.get("pipeline") or ()
    named = [s if isinstance(s, str) else next(iter(s), "?") for s in steps if s]
    how = "restore" if "restore" in recipe else str(recipe.get("merge_method") or " > ".join(named))
    return Made(
        how=how,
        models=tuple(model["name"] for model in record["models"]),
        seed=record.get("seed"),
        version=(record.get("versions") or {}).get("cermet"),
        experts=experts,
        parts_bytes=kept,
    ), ()
