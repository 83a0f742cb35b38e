"""The manifest of an assembly: whose parts it holds, and what they are restored with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cermet.checkpoints.dtypes import SIZES
from cermet.checkpoints.header import read_json
from cermet.checkpoints.reader import DELTA
from cermet.core.errors import FormatError, InputError
from cermet.core.registry import takes
from cermet.engine.run import Finished
from cermet.recipes.assembly import labels_of, slots_of
from cermet.recipes.plan import Plan

__all__ = ["MANIFEST", "Manifest", "manifest_of", "read_manifest"]

MANIFEST = "assembly.json"
"""Name of the manifest in the folder of an assembly."""


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class Expert(_Strict):
    """One expert: its name here, the model that it was, and the bytes of its own parts."""

    name: str = Field(min_length=1)
    model: str
    bytes: int


class Manifest(_Strict):
    """What `assembly.json` holds.

    base: the model that every expert is restored with, None where none is needed.
    merged_bytes, parts_bytes: of the files of the merged model, and of all parts.
    """

    format: int
    method: str
    experts: list[Expert] = Field(min_length=1)
    base: str | None
    merged_bytes: int
    parts_bytes: int


def manifest_of(plan: Plan, finished: Finished) -> dict[str, Any] | None:
    """The manifest of what a run has made; None where it has left no parts."""
    labels = labels_of(plan)
    if finished.parts is None or not labels:
        return None
    sizes = dict.fromkeys(labels, 0)
    for task in plan.tasks:
        for slot in slots_of(task, labels):
            nbytes = SIZES[slot.dtype]
            for length in slot.shape:
                nbytes *= length
            if slot.expert is not None:
                sizes[labels[slot.expert]] += nbytes
    first = next(task for task in plan.tasks if task.method is not None)
    named = zip(labels, first.sources, strict=True)
    return Manifest(
        format=1,
        method=plan.method.name,
        experts=[
            Expert(name=label, model=str(plan.models[source.model]), bytes=sizes[label])
            for label, source in named
        ],
        base=_base_of(plan),
        merged_bytes=finished.layout.size,
        parts_bytes=finished.parts.size,
    ).model_dump()


def _base_of(plan: Plan) -> str | None:
    """The base as the recipe names it, where restoring needs it."""
    assert plan.method.restore is not None
    if "base" not in takes(plan.method.restore):
        return None
    return str(plan.recipe.base_model)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder; InputError where there is none, FormatError where it is damaged."""
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError(
            f"'{folder}' holds no {MANIFEST} and no {DELTA}; it is neither an assembly nor a delta "
            "archive of Cermet's."
        )
    data: Mapping[str, Any] = read_json(path, "the manifest")
    try:
        return Manifest.model_validate(data)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        raise FormatError(
            f"'{path}': {place}: {str(problem['msg']).lower()}; the manifest is damaged."
        ) from error
