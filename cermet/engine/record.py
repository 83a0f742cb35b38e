"""What stands beside the weights: `cermet.json`, the config, and the model card."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cermet.checkpoints.header import read_json
from cermet.checkpoints.reader import Checkpoint
from cermet.core.errors import FormatError
from cermet.core.fingerprint import digest_hex, sha256_hex
from cermet.core.registry import Method
from cermet.engine.run import Finished, Options, parameters_of
from cermet.recipes.assembly import labels_of
from cermet.recipes.plan import Plan

__all__ = ["model_card", "read_record", "record_of", "sources_of", "write_json"]

_LIBRARIES = ("cermet", "torch", "safetensors", "numpy")
_HEADER_LIMIT = 100_000_000


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that the numbers depend on."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found


def sources_of(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """The files of a model: name, size, and SHA-256 of what describes their tensors.

    An adapter's files hold no tensor of the model, so they are hashed whole.
    """
    files: dict[Path, list[str]] = {}
    for name, info in checkpoint.tensors.items():
        line = f"{name} {info.dtype} {info.shape} {info.begin}"
        files.setdefault(info.file, []).append(line)
    found: list[dict[str, Any]] = [
        {
            "file": file.name,
            "bytes": file.stat().st_size if file.is_file() else None,
            "header_sha256": sha256_hex("\n".join(sorted(lines)).encode()),
        }
        for file, lines in sorted(files.items())
    ]
    for file in checkpoint.adapter:
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        found.append({"file": file.name, "bytes": file.stat().st_size, "sha256": digest})
    return found


def record_of(
    plan: Plan, finished: Finished, options: Options, recipe_text: Any, files: Sequence[str]
) -> dict[str, Any]:
    """The record of a run: everything that is needed to check it, or to run it again."""
    tensors = {}
    for task in plan.tasks:
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
        tensors[task.name] = {
            "shard": finished.layout.shard_of(task.name),
            "dtype": task.dtype,
            "shape": list(task.shape),
            "role": str(task.place.role),
            "digest": digest_hex(output, task.nbytes),
            "method": task.method.name if task.method is not None else "copy",
            "parameters": parameters_of(task),
            "sources": sources,
        }
    opened = [
        {"name": name, "path": c.path, "files": sources_of(c)}
        for name, c in zip(plan.names, plan.checkpoints, strict=True)
    ]
    return {
        "format": 1,
        "recipe": recipe_text,
        "seed": plan.recipe.seed,
        "models": opened[: len(plan.models)],
        "statistics": opened[len(plan.models) :],
        **({"vocabulary": plan.vocabulary.summary()} if plan.vocabulary is not None else {}),
        "versions": versions(),
        "machine": {"system": platform.system(), "processor": platform.machine()},
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
        "files": sorted(files),
        "tensors": tensors,
        "parts": parts_record(finished),
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


class _Record(_Part):
    recipe: dict[str, Any]
    models: list[_Model]
    tensors: dict[str, _Tensor]
    parts: dict[str, _Kept] = {}
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


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write readable JSON."""
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _how(method: Method) -> str:
    """A sentence on the method, or a list of the steps of a pipeline."""
    if not method.steps:
        return f"Made by Cermet with the method {_named(method)}"
    steps = (f"{i}. {_named(step)}" for i, step in enumerate(method.steps, start=1))
    return "\n".join(["Made by Cermet with a pipeline of these steps:", "", *steps, ""])


def _named(method: Method) -> str:
    summary = method.summary[:1].lower() + method.summary[1:]
    return f"`{method.name}` ({method.source}): {summary}"


def model_card(plan: Plan, recipe_yaml: str) -> str:
    """README.md of the output: what it was made of, how, and how to make it again."""
    experts = _experts_card(plan)
    listed = "\n".join(f"- `{ref}`" for ref in plan.models)
    listed += "".join(f"\n- `{path}` (statistics)" for path in plan.statistics)
    count = sum(task.numel for task in plan.tasks)
    words = "" if plan.vocabulary is None else f"\nVocabulary: {plan.vocabulary.sentence()}."
    return f"""---
library_name: transformers
tags:
- merge
- cermet
---

# A merge of {len(plan.models)} models

{_how(plan.method)}
{count:,} parameters in {len(plan.tasks)} tensors.{words}

## Models

{listed}
{experts}
## Recipe

```yaml
{recipe_yaml.strip()}
```

`cermet.json` holds the recipe resolved for every tensor, and the digests of everything
that was read and written; `cermet verify` checks them.
"""


def _experts_card(plan: Plan) -> str:
    """How to get the experts back, for the model card of an assembly."""
    labels = labels_of(plan)
    if not labels:
        return ""
    return f"""
## Experts

This is an assembly: beside the merged model it holds what restores each of its experts,
{", ".join(f"`{label}`" for label in labels)}:

```
cermet restore FOLDER OUT --task {shlex.quote(labels[0])}
```
"""
