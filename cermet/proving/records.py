"""What a bench has measured: one JSON line each, in a folder of its own."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cermet.core.errors import DiskError, FormatError, OutputError
from cermet.core.fingerprint import sha256_hex
from cermet.engine.record import versions

__all__ = ["FORMAT", "RECORDS", "Records", "key_of"]

RECORDS = "records.jsonl"
FORMAT = 1
"""Version of a line; a key that changes its meaning raises it, a new key does not."""

_ROW = ("experts", "seed", "kind", "name", "split")
_CHOSEN = frozenset({"key", "pool", "pool_digest", *_ROW, "point"})
_TOLD = frozenset({
    "tasks", "knob", "grid", "mean", "normalised", "low", "high", "worst", "out_of_domain", "flips",
    "seconds", "peak_bytes", "bytes",
})  # fmt: skip
_OURS = frozenset({RECORDS, "outcomes", "work", "table.csv", "table.md", "table.json"})


def key_of(stands: Mapping[str, Any]) -> str:
    """The name of a measurement: a digest of all that decides its numbers."""
    return sha256_hex(json.dumps(stands, sort_keys=True).encode())[:16]


class Records:
    """The records of a folder; new ones are on the disk as soon as they are added.

    Raises OutputError where the folder holds what no bench has written, FormatError where its
    records are damaged, DiskError where it cannot be written.
    """

    def __init__(self, folder: Path, *, reading: bool = False) -> None:
        self.folder, self.file = folder, folder / RECORDS
        if reading and not self.file.is_file():
            raise OutputError(
                f"'{folder}' holds no {RECORDS}; run the bench without --show first, or name its "
                "folder with --out."
            )
        if folder.exists():
            self._check()
        self._lines = list(self._read())
        self._by_key: dict[str, dict[str, Any]] = {}
        self._latest: dict[str, str] = {}
        for line in self._lines:
            self._know(line)

    def _check(self) -> None:
        if not self.folder.is_dir():
            raise OutputError(f"'{self.folder}' is a file; the output of a bench is a folder.")
        if self.file.is_file():
            return
        foreign = sorted(p.name for p in self.folder.iterdir() if p.name not in _OURS)
        if foreign:
            raise OutputError(
                f"'{self.folder}' holds '{foreign[0]}' and no {RECORDS}, so no bench has written "
                "it. Choose another --out."
            )

    def _read(self) -> Iterator[dict[str, Any]]:
        """Every line; one that a killed run left half written at the end is cut off."""
        if not self.file.is_file():
            return
        content = self.file.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with self.file.open("r+b") as file:
                file.truncate(whole)
        for number, text in enumerate(content[:whole].splitlines(), start=1):
            try:
                line = json.loads(text)
                known = line["format"] == FORMAT and _complete(line)
            except (ValueError, KeyError, TypeError):
                known = False
            if not known:
                raise FormatError(
                    f"{self.file}:{number}: this is no record of this version's bench; move the "
                    "folder away, and run the bench again."
                )
            yield line

    def _know(self, line: dict[str, Any]) -> None:
        self._by_key[line["key"]] = line
        self._latest[_row(line)] = line["key"]

    def find(self, key: str, row: Mapping[str, Any]) -> dict[str, Any] | None:
        """The record of that key and row; it becomes the row's latest again."""
        found = self._by_key.get(key)
        if found is None or _row(found) != _row(row):
            return None
        if self._latest[_row(found)] != key:
            self._append(found)
        return found

    def add(self, line: Mapping[str, Any]) -> dict[str, Any]:
        """Keep a record, with the date and the versions of what made it."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        kept = {"format": FORMAT, **line, "versions": versions(), "date": now}
        self._append(kept)
        return kept

    def _append(self, line: dict[str, Any]) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise DiskError(f"'{self.file}': {error.strerror or error}.") from error
        self._lines.append(line)
        self._know(line)

    def latest(self) -> list[dict[str, Any]]:
        """The last record of every row and point, in the order in which they were measured."""
        return list({_row(line): line for line in self._lines}.values())


def _complete(line: Mapping[str, Any]) -> bool:
    """Whether a record holds what is read of it."""
    told = line["split"] == "test" and "not_run" not in line
    return line.keys() >= (_CHOSEN | _TOLD if told else _CHOSEN)


def _row(line: Mapping[str, Any]) -> str:
    """What a record is about; on validation every point of a method, on test the chosen one."""
    point = line["point"] if line["split"] == "validation" else None
    return json.dumps([*(line[name] for name in _ROW), point], sort_keys=True)
