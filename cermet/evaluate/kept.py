"""Outcomes in a folder, found again by what decides them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from cermet.core.errors import InputError
from cermet.core.fingerprint import sha256_hex
from cermet.evaluate.outcomes import Outcomes, key_of
from cermet.recipes.pool import Split, Task

__all__ = ["Kept", "folder_digest"]

_FORM = 1
"""Raised whenever the same model would be given other outcomes."""

_PLACE = "outcomes"
_READ = {".safetensors", ".bin", ".json", ".model", ".txt", ".jinja"}
_ABOUT = {"cermet.json", "zoo.json"}  # how a folder came to be, which decides nothing


def folder_digest(folder: Path) -> str:
    """Of the weights, config and tokenizer in a folder."""
    found = [
        f for f in sorted(folder.iterdir())
        if f.suffix in _READ and f.name not in _ABOUT and f.is_file()
    ]  # fmt: skip
    return sha256_hex("\n".join(f"{f.name} {_file_digest(f)}" for f in found).encode())


def _file_digest(path: Path) -> str:
    try:
        with path.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"'{path}' cannot be read: {error.strerror or error}.") from error


class Kept:
    """The outcomes under a folder, and those of this run; None keeps nothing beyond it."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._digests: dict[Path, str] = {}
        self._made: dict[str, Outcomes] = {}

    def key(self, model: str, task: Task, split: Split, limit: int | None, device: str) -> str:
        """A digest of all that decides outcomes; `model` is the digest of the model's files."""
        data, head = (None if f is None else self._of(f) for f in (task.files[split], task.head))
        stands = [_FORM, model, task.name, task.kind, task.max_tokens, data, head, split, limit]
        device_kind = device.partition(":")[0]
        return sha256_hex(json.dumps([*stands, device_kind]).encode())

    def file(self, task: str, split: Split, key: str) -> Path | None:
        """Where outcomes stand."""
        if self._folder is None:
            return None
        return self._folder / _PLACE / f"{task}.{split}.{key[:16]}.safetensors"

    def find(self, task: str, split: Split, key: str) -> Outcomes | None:
        """The outcomes under a key, if there are any."""
        if key in self._made:
            return self._made[key]
        file = self.file(task, split, key)
        return Outcomes.load(file) if file is not None and key_of(file) == key else None

    def holds(self, task: str, split: Split) -> bool:
        """Whether there are outcomes of a task at all."""
        place = None if self._folder is None else self._folder / _PLACE
        return place is not None and any(place.glob(f"{task}.{split}.*.safetensors"))

    def take(
        self, task: str, split: Split, key: str, make: Callable[[], Outcomes]
    ) -> tuple[Outcomes, bool]:
        """The outcomes under a key, and whether they were made just now."""
        found = self.find(task, split, key)
        if found is not None:
            return found, False
        made = self._made[key] = make()
        file = self.file(task, split, key)
        if file is not None:
            made.save(file, key)
        return made, True

    def _of(self, file: Path) -> str:
        if file not in self._digests:
            self._digests[file] = _file_digest(file)
        return self._digests[file]
