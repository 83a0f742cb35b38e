"""A pool on disk: a base, its experts, and the tasks that all of them are measured on.

`pool.yaml` names them; paths are relative to the folder of the file.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cermet.core.errors import InputError, RecipeError
from cermet.recipes.document import Document, Where, read_document

__all__ = [
    "METRICS",
    "POOL",
    "VERSION",
    "Kind",
    "Metric",
    "Pool",
    "Split",
    "Task",
    "read_pool",
]

POOL = "pool.yaml"
VERSION = 1
"""Version of the file that this release writes."""

Split = Literal["validation", "test"]
"""Coefficients are chosen on validation; what is reported is of test."""

Kind = Literal["embed", "images", "classify", "likelihood", "generate", "choose"]
Metric = Literal["accuracy", "exact_match", "bits_per_character"]

METRICS: Mapping[Kind, Metric] = {
    "embed": "accuracy",
    "images": "accuracy",
    "classify": "accuracy",
    "likelihood": "bits_per_character",
    "generate": "exact_match",
    "choose": "accuracy",
}
"""What a task of each kind is measured in; of bits, fewer are better."""

_HEADED = ("embed", "images")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


Name = Annotated[str, Field(min_length=1, pattern=r"^[\w.-]+$")]
File = Annotated[str, Field(min_length=1)]


class _WrittenTask(_Strict):
    kind: Kind
    expert: Name | None = None
    validation: File
    test: File
    head: File | None = None
    max_tokens: Annotated[int, Field(ge=1, le=4096)] = 64


class _WrittenPool(_Strict):
    cermet_pool: Literal[1]
    name: Name
    base: File
    experts: Annotated[dict[Name, File], Field(min_length=1)]
    adapters: dict[Name, File] = {}
    multi_task: File | None = None
    tasks: Annotated[dict[Name, _WrittenTask], Field(min_length=1)]


@dataclass(frozen=True)
class Task:
    """One task: examples of two splits, and how an answer is told from a checkpoint.

    kind: `embed` (texts; the nearest row of a frozen head by cosine to the mean-pooled embedding),
    `images` (a frozen linear head on a vision encoder), `classify` (a sequence classifier's own
    head), `likelihood` (texts, bits per character), `generate` (prompt and answer, greedy, exact
    match), `choose` (prompt and options, the likeliest per character). files: of each split, JSON
    lines; of images, safetensors with `images` [examples, channels, height, width] in uint8 and
    `labels` [examples]. expert: the expert tuned for it, None where there is none (out of domain).
    head: safetensors with `head` [labels, width], or `weight` and `bias` for images.
    max_tokens: that are generated.
    """

    name: str
    kind: Kind
    files: Mapping[Split, Path]
    expert: str | None
    head: Path | None
    max_tokens: int

    @property
    def metric(self) -> Metric:
        """What it is measured in."""
        return METRICS[self.kind]


@dataclass(frozen=True)
class Pool:
    """Models as a recipe names them (absolute paths where they are folders here), and tasks.

    experts: by name, in the order of the file. adapters: LoRA adapters of the base, by the name of
    the expert that they stand for. multi_task: a model tuned on all tasks, the upper bound.
    """

    name: str
    file: Path
    base: str
    experts: Mapping[str, str]
    adapters: Mapping[str, str]
    multi_task: str | None
    tasks: tuple[Task, ...]

    def part(self, experts: int) -> Pool:
        """The pool of the first experts, with the tasks that these were tuned for."""
        names = list(self.experts)[:experts]
        return Pool(
            self.name,
            self.file,
            self.base,
            {n: self.experts[n] for n in names},
            {n: a for n, a in self.adapters.items() if n in names},
            None,
            tuple(t for t in self.tasks if t.expert in names),
        )


def read_pool(path: Path) -> Pool:
    """The pool in a file, or in a folder that holds `pool.yaml`.

    Raises RecipeError with file and line, and InputError where a file of a task is missing. Models
    are not looked for: a name may be of the hub.
    """
    file = path / POOL if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"There is no pool at '{path}': neither a file nor a folder with {POOL}.")
    document = read_document(file)
    try:
        written = _WrittenPool.model_validate(document.data)
    except ValidationError as error:
        raise RecipeError(_explain(document, error.errors()[0])) from error
    root = file.absolute().parent
    _check(written, document)
    return Pool(
        written.name,
        file.absolute(),
        _model(written.base, root),
        {name: _model(model, root) for name, model in written.experts.items()},
        {name: _model(model, root) for name, model in written.adapters.items()},
        None if written.multi_task is None else _model(written.multi_task, root),
        tuple(_task(name, task, written, root, document) for name, task in written.tasks.items()),
    )


def _model(name: str, root: Path) -> str:
    """A model's absolute path where its folder stands beside the pool's file, else its name."""
    model, plus, adapter = name.partition("+")
    found = [
        str(root / part) if part and (root / part).exists() else part for part in (model, adapter)
    ]
    return plus.join(found)


def _task(
    name: str, written: _WrittenTask, pool: _WrittenPool, root: Path, document: Document
) -> Task:
    where = ("tasks", name)
    if (written.kind in _HEADED) != (written.head is not None):
        word = "needs a 'head'" if written.kind in _HEADED else "takes no 'head'"
        raise RecipeError(f"{document.at(where)}: a task of kind '{written.kind}' {word}.")
    for key in ("validation", "test", "head"):
        file = getattr(written, key)
        if file is not None and not (root / file).is_file():
            raise InputError(f"{document.at((*where, key))}: there is no file '{root / file}'.")
    own = name if name in pool.experts else None
    return Task(
        name,
        written.kind,
        {"validation": root / written.validation, "test": root / written.test},
        own if written.expert is None else written.expert,
        None if written.head is None else root / written.head,
        written.max_tokens,
    )


def _check(pool: _WrittenPool, document: Document) -> None:
    """Refuse names of experts that there are not."""
    named: list[tuple[Where, str | None]] = [
        *((("tasks", name, "expert"), task.expert) for name, task in pool.tasks.items()),
        *((("adapters", name), name) for name in pool.adapters),
    ]
    for where, expert in named:
        if expert is not None and expert not in pool.experts:
            raise RecipeError(
                f"{document.at(where)}: there is no expert '{expert}'; the pool has "
                f"{', '.join(pool.experts)}."
            )
    if not any(t.expert or n in pool.experts for n, t in pool.tasks.items()):
        raise RecipeError(f"{document.at(('tasks',))}: no task belongs to an expert.")


def _explain(document: Document, problem: Any) -> str:
    where = tuple(problem["loc"])
    place = document.at(where)
    if problem["type"] == "extra_forbidden":
        model = _WrittenTask if where[0] == "tasks" else _WrittenPool
        near = difflib.get_close_matches(str(where[-1]), list(model.model_fields), n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        return f"{place}: unknown key '{where[-1]}' in a pool.{hint}"
    if problem["type"] == "missing":
        return f"{place}: '{where[-1]}' is missing."
    message = str(problem["msg"])
    name = ".".join(str(step) for step in where)
    return f"{place}: {name + ': ' if name else ''}{message[:1].lower() + message[1:]}."
