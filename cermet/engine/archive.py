"""The manifest of a delta archive: whose delta it holds, in what form, and digests of all of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cermet.checkpoints.header import read_json
from cermet.checkpoints.reader import DELTA, Checkpoint, open_parts
from cermet.core.errors import FormatError, InputError
from cermet.core.fingerprint import sha256_hex

__all__ = [
    "FORMAT",
    "MANIFEST",
    "Archive",
    "Entry",
    "How",
    "Model",
    "Stored",
    "changed_files",
    "is_archive",
    "opened_parts",
    "read_archive",
    "write_archive",
]

MANIFEST = DELTA
"""Name of the manifest in the folder of a delta archive."""

FORMAT = 1
"""The format that this version writes, and the only one that it reads."""

How = Literal["coded", "expert", "base", "same"]
"""What is kept of a tensor: the codec's parts; the expert's own bytes; nothing, so that the base's
are taken; nothing, because the two are the same."""


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Stored(_Strict):
    """One part of a tensor: its name in the file, and its digest.

    stride: elements of a part that each run of the tensor has; ends: where each run ends, where
    they differ; neither for a part that belongs to the whole tensor.
    """

    name: str
    dtype: str
    shape: list[int]
    digest: str
    stride: int | None = Field(default=None, ge=0)
    ends: list[int] | None = None


class Entry(_Strict):
    """One tensor of the expert: base is the name and the digest of the base's."""

    dtype: str
    shape: list[int]
    role: str
    how: How
    base: str
    base_digest: str | None
    expert_digest: str | None
    numbers: dict[str, float] = {}
    parts: dict[str, Stored] = {}


class Model(_Strict):
    """A model as it was named, and its files."""

    name: str
    files: list[dict[str, Any]]


class Archive(_Strict):
    """What `delta.json` holds.

    folder: from where paths of models start, seen from the archive. stem: of the files that hold
    the parts. files: SHA-256 of what stands beside them.
    """

    format: int
    codec: str
    parameters: dict[str, Any]
    seed: int
    folder: str = Field(pattern=r"^[^\x00]*$")
    stem: Literal["delta", "adapter_model"]
    base: Model
    expert: Model
    tensors: dict[str, Entry]
    files: dict[str, str]

    @property
    def nbytes(self) -> int:
        """Bytes of the restored model's tensors."""
        from cermet.checkpoints.dtypes import SIZES

        total = 0
        for entry in self.tensors.values():
            count = SIZES[entry.dtype]
            for length in entry.shape:
                count *= length
            total += count
        return total


def _digest(data: Mapping[str, Any]) -> str:
    return sha256_hex(json.dumps(data, sort_keys=True, separators=(",", ":")).encode())


def write_archive(path: Path, archive: Archive) -> None:
    """Write a manifest with a digest of itself, one line for each tensor."""
    data = archive.model_dump(exclude_defaults=True) | {"format": archive.format}
    lines = [
        f"{json.dumps(key)}: {_listed(value) if key == 'tensors' else json.dumps(value)}"
        for key, value in (*data.items(), ("sha256", _digest(data)))
    ]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")


def _listed(entries: Mapping[str, Any]) -> str:
    lines = (f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in entries.items())
    return "{\n" + ",\n".join(lines) + "\n}"


def is_archive(folder: Path) -> bool:
    """Whether a folder holds a delta archive."""
    return (folder / MANIFEST).is_file()


def read_archive(folder: Path) -> Archive:
    """The manifest of a folder; InputError where there is none, FormatError where it is damaged."""
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError(f"'{folder}' holds no {MANIFEST}; it is no delta archive of Cermet's.")
    data = read_json(path, "the manifest")
    if data.get("format") != FORMAT:
        raise FormatError(
            f"'{path}' is of format {data.get('format')!r}, and this Cermet reads format {FORMAT}; "
            "use the version that wrote it, or a newer one."
        )
    if data.pop("sha256", None) != _digest(data):
        raise FormatError(f"'{path}' has changed since it was written.")
    try:
        return Archive.model_validate(data)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        raise FormatError(
            f"'{path}': {place}: {str(problem['msg']).lower()}; the manifest is damaged."
        ) from error


def changed_files(folder: Path, archive: Archive) -> Iterator[FormatError]:
    """What is wrong with the files that stand beside the parts."""
    for name, wanted in archive.files.items():
        path = folder / name
        if path.name != name or not path.is_file():
            yield FormatError(f"'{folder}' lacks the file '{name}' of its manifest.")
            continue
        with path.open("rb") as content:
            if hashlib.file_digest(content, "sha256").hexdigest() != wanted:
                yield FormatError(f"'{path}' has changed since it was written.")


def opened_parts(folder: Path, archive: Archive) -> Checkpoint | None:
    """The files of the parts, whose headers hold what the manifest says; None without any part."""
    wanted = {s.name: s for entry in archive.tensors.values() for s in entry.parts.values()}
    if not wanted:
        return None
    try:
        kept = open_parts(folder, archive.stem)
    except InputError as error:  # the archive is there, so it is damaged
        raise FormatError(str(error)) from error
    for name, stored in wanted.items():
        info = kept.tensors.get(name)
        if info is None:
            raise FormatError(f"'{folder}' lacks the part '{name}' of its manifest.")
        if (info.dtype, list(info.shape)) != (stored.dtype, stored.shape):
            raise FormatError(
                f"'{name}' of '{folder}' is {info.dtype} {list(info.shape)}, but "
                f"{stored.dtype} {stored.shape} in its manifest."
            )
    for name in kept.tensors.keys() - wanted.keys():
        raise FormatError(f"'{folder}' holds '{name}', which is not in its manifest.")
    return kept
