"""Where a model comes from: its repository and revision on the hub, and what its card states."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from cermet.checkpoints.front_matter import FrontMatter, is_repository, read_front_matter
from cermet.checkpoints.reader import read_config
from cermet.core.errors import FormatError

__all__ = ["Origin", "Part", "hub_sha256", "origin_of", "recorded_origins"]

Part = Literal["model", "adapter", "tokenizer"]

_SHA256 = re.compile("[0-9a-f]{64}")
_REVISION = re.compile("[0-9a-f]{40}")
_CACHED = re.compile(r"models--(.+)")
_DOWNLOADED = Path(".cache", "huggingface", "download")  # what the hub's client keeps in a folder


@dataclass(frozen=True)
class Origin:
    """One folder that a merge takes something from.

    name: as the recipe names it. part: what is taken. repository, revision: on the hub, where
    it is known. parents: hub names that the folder's own card or config gives as what it was made
    from; used where it has no repository of its own.
    """

    name: str
    part: Part
    repository: str | None
    revision: str | None
    parents: tuple[str, ...]
    card: FrontMatter

    @property
    def links(self) -> tuple[str, ...]:
        """Hub names that stand for this folder among the base models of an output."""
        return (self.repository,) if self.repository is not None else self.parents

    def record(self) -> dict[str, Any]:
        """What the record of a run says of it."""
        return {
            "name": self.name,
            "part": self.part,
            "repository": self.repository,
            "revision": self.revision,
            "base_models": list(self.links),
            "license": list(self.card.license),
            "license_name": self.card.license_name,
            "license_link": self.card.license_link,
        }


def origin_of(name: str, part: Part, folder: Path) -> Origin:
    """What is known of the folder that `name` has led to, without asking the hub."""
    repository, revision = _cached(folder)
    if repository is None and not Path(name).expanduser().exists() and is_repository(name):
        repository = name  # it is not here, so the hub has given it
    if revision is None:
        revision = next(
            (r for r in map(_revision, sorted((folder / _DOWNLOADED).glob("*.metadata"))) if r),
            None,
        )
    card = read_front_matter(folder)
    return Origin(name, part, repository, revision, card.base_model or _parent(folder), card)


def recorded_origins(entries: Sequence[Mapping[str, Any]], card: FrontMatter) -> list[Origin]:
    """Origins as records hold them (`Origin.record`); `card` states the rest of each."""
    return [
        Origin(
            str(entry["name"]),
            entry["part"],
            entry["repository"],
            entry["revision"],
            tuple(entry.get("base_models", ())),
            replace(
                card,
                license=tuple(entry["license"]),
                license_name=entry.get("license_name"),
                license_link=entry.get("license_link"),
            ),
        )
        for entry in entries
    ]


def _cached(folder: Path) -> tuple[str | None, str | None]:
    """Repository and commit of a snapshot in the hub's cache: models--owner--name/snapshots/..."""
    parts = folder.absolute().parts
    if len(parts) < 3 or parts[-2] != "snapshots":
        return None, None
    found = _CACHED.fullmatch(parts[-3])
    name = found[1].replace("--", "/") if found is not None else ""
    revision = parts[-1] if _REVISION.fullmatch(parts[-1]) else None
    return (name, revision) if is_repository(name) else (None, None)


def _parent(folder: Path) -> tuple[str, ...]:
    """The hub name in the config's `_name_or_path`, unless that is a folder."""
    try:
        name = read_config(folder).get("_name_or_path")
    except FormatError:
        return ()  # opening the model says what is wrong with it
    known = isinstance(name, str) and is_repository(name) and not Path(name).exists()
    return (str(name),) if known else ()


def _lines(metadata: Path) -> list[str]:
    """Commit, etag and time, as the hub's client writes them beside what it downloads."""
    try:
        with metadata.open("rb") as file:
            return file.read(1000).decode("utf-8", "replace").splitlines()
    except OSError:
        return []


def _revision(metadata: Path) -> str | None:
    found = _lines(metadata)
    return found[0] if found and _REVISION.fullmatch(found[0]) else None


def hub_sha256(file: Path) -> str | None:
    """The SHA-256 of a file as the hub has told it: its blob's name, or the metadata beside it.

    None where neither is there, or where the file has changed since it was downloaded. Nothing of
    the file is read.
    """
    blob = file.resolve()
    if blob.parent.name == "blobs" and _SHA256.fullmatch(blob.name):
        return blob.name
    found: Mapping[int, str] = dict(
        enumerate(_lines(file.parent / _DOWNLOADED / f"{file.name}.metadata"))
    )
    try:
        fresh = file.stat().st_mtime - 1 <= float(found.get(2, ""))  # as the client itself checks
    except (OSError, ValueError):
        return None
    etag = found.get(1, "")
    return etag if fresh and _SHA256.fullmatch(etag) else None
