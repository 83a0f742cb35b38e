"""The record of a run, `cermet.json`: what it was made of, how, by what, and on what."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cermet.checkpoints.front_matter import CARD
from cermet.checkpoints.header import read_json
from cermet.checkpoints.origin import Origin, Part
from cermet.core.device import instructions
from cermet.core.errors import FormatError, InputError
from cermet.core.fingerprint import digest_hex, sha256_hex
from cermet.engine.folder import RECORD, OutputFolder
from cermet.engine.licences import compare_licences
from cermet.engine.options import Options
from cermet.engine.run import Finished, parameters_of
from cermet.recipes.plan import Plan, Task

__all__ = [
    "beside",
    "machine",
    "origins_record",
    "read_record",
    "recipe_sha256",
    "record_in",
    "record_of",
    "run_folder",
    "versions",
    "write_json",
]

_LIBRARIES = ("cermet", "torch", "safetensors", "numpy")


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that the numbers depend on."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found


def machine(device: str = "cpu") -> dict[str, str]:
    """The kind of machine, as far as the last bit of a sum may depend on it."""
    found = {
        "system": platform.system(),
        "processor": platform.machine(),
        "instructions": instructions(),
    }
    if device != "cpu":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def recipe_sha256(recipe: Any) -> str:
    """SHA-256 of a recipe as data, however its file is laid out."""
    return sha256_hex(json.dumps(recipe, sort_keys=True, default=str).encode())


def beside(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """SHA-256 of the files beside the weights; not of the card, which is there to be edited."""
    found = {}
    for name in names:
        if not name.endswith(".safetensors") and name != CARD:
            with (folder / name).open("rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def origins_record(origins: Sequence[Origin]) -> dict[str, Any]:
    """Where the sources come from, and what can be said of their licences together."""
    licences = compare_licences(origins)
    return {
        "origins": [origin.record() for origin in origins],
        "licences": {
            "license": list(licences.license),
            "missing": list(licences.missing),
            "conflicts": list(licences.conflicts),
        },
    }


def record_of(
    plan: Plan,
    finished: Finished,
    options: Options,
    recipe_text: Any,
    models: Sequence[Mapping[str, Any]],
    folder: OutputFolder,
) -> dict[str, Any]:
    """The record of a run: everything that is needed to check it, or to run it again.

    models: with their files, as `models_record` gives them. folder: all that was written.
    """
    return {
        "format": 1,
        "recipe": recipe_text,
        "recipe_sha256": recipe_sha256(recipe_text),
        "seed": plan.recipe.seed,
        "models": list(models[: len(plan.models)]),
        "statistics": list(models[len(plan.models) :]),
        **({"vocabulary": plan.vocabulary.summary()} if plan.vocabulary is not None else {}),
        **origins_record(plan.origins),
        "versions": versions(),
        "machine": machine(options.device),
        "run": {
            "folder": os.path.relpath(Path.cwd(), finished.out),
            "device": options.device,
            "threads": options.workers(),
            "memory_budget": options.memory,
            "peak_private_bytes": finished.peak_bytes,
            "merge_seconds": round(finished.seconds, 3),
            "sync_seconds": round(finished.sync_seconds, 3),
            "resumed_pieces": finished.resumed_pieces,
        },
        "warnings": list(plan.warnings),
        "fitting": list(plan.notes),
        **({"continue": dict(finished.continued)} if finished.continued else {}),
        "files": folder.files(),
        "beside": beside(folder.work, folder.files()),
        "tensors": {task.name: _tensor_record(plan, finished, task) for task in plan.tasks},
        "parts": parts_record(finished),
    }


def _tensor_record(plan: Plan, finished: Finished, task: Task) -> dict[str, Any]:
    """One tensor of the output: where it stands, how it was made, and of what."""
    output, inputs = finished.digests[task.name]
    sources = []
    for named, digest in zip(task.inputs(), inputs, strict=True):
        checkpoint = plan.checkpoints[named.model]
        nbytes = checkpoint.tensors[named.tensor].nbytes
        sources.append(
            {
                "model": named.model,
                "tensor": named.tensor,
                "digest": digest_hex(digest, nbytes) if checkpoint.exact else None,
            }
        )
    return {
        "shard": finished.layout.shard_of(task.name),
        "dtype": task.dtype,
        "shape": list(task.shape),
        "role": str(task.place.role),
        "digest": digest_hex(output, task.nbytes),
        "method": task.method.name if task.method is not None else "copy",
        "parameters": parameters_of(task),
        "sources": sources,
    }


def parts_record(finished: Finished) -> dict[str, dict[str, str]]:
    """What is kept of the experts, by name: its file and its digest."""
    files = finished.parts
    if files is None:
        return {}
    return {
        name: {
            "file": files.shard_of(name),
            "digest": digest_hex(finished.part_digests[name], slot.nbytes),
        }
        for name, slot in files.slots.items()
    }


class _Part(BaseModel):
    model_config = ConfigDict(strict=True)


class _File(_Part):
    file: str
    bytes: int | None = None
    header_sha256: str | None = None
    sha256: str | None = None


class _Model(_Part):
    name: str
    files: list[_File]


class _Source(_Part):
    digest: str | None


class _Tensor(_Part):
    shard: str
    method: str
    digest: str
    sources: list[_Source]


class _Kept(_Part):
    file: str
    digest: str


class _Run(_Part):
    device: str = Field(pattern=r"^(cpu|cuda(:\d{1,3})?)$")
    folder: str = Field(default=".", pattern=r"^[^\x00]*$")


class _Origin(_Part):
    name: str
    part: Part
    repository: str | None
    revision: str | None
    base_models: list[str] = []
    license: list[str]
    license_name: str | None = None
    license_link: str | None = None


class _Record(_Part):
    recipe: dict[str, Any]
    recipe_sha256: str | None = None
    versions: dict[str, str] = {}
    machine: dict[str, str] = {}
    origins: list[_Origin] = []
    beside: dict[Annotated[str, Field(pattern=r"^[^/\\\x00]+$")], str] = {}
    models: list[_Model]
    tensors: dict[str, _Tensor]
    parts: dict[str, _Kept] = {}
    continued: dict[str, float] = Field(default={}, alias="continue")
    run: _Run


def read_record(path: Path) -> dict[str, Any]:
    """What `record_of` has made, from its file; FormatError where it is damaged."""
    record = read_json(path, "the record")
    try:
        _Record.model_validate(record)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        raise FormatError(
            f"'{path}': {place}: {str(problem['msg']).lower()}; the record is damaged."
        ) from error
    return record


def record_in(folder: Path) -> dict[str, Any]:
    """The record of a folder that Cermet wrote."""
    path = folder / RECORD
    if not path.is_file():
        raise InputError(f"'{folder}' holds no {RECORD}; it was not written by Cermet.")
    return read_record(path)


def run_folder(folder: Path, record: Mapping[str, Any]) -> Path:
    """The folder from which a merge was run, seen from its output."""
    return (folder.absolute() / str(record["run"].get("folder", "."))).resolve()


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write readable JSON."""
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", "utf-8")
