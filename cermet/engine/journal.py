"""What a run has finished, line by line, so that a killed run can go on.

A killed process loses nothing that it wrote, so lines are appended without fsync. Only a
crash of the machine can lose them and the data alike: the journal therefore names the
boot that it belongs to, and is void after another.
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

from cermet.core.errors import OutputError
from cermet.engine.done import Done

__all__ = ["Journal"]

_BOOT = Path("/proc/sys/kernel/random/boot_id")


def _boot() -> str:
    return _BOOT.read_text().strip() if _BOOT.is_file() else ""


class Journal:
    """Finished pieces of a run: task -> start of piece -> what it left.

    With `resume`, what an earlier journal tells is kept, if the files that it tells of are
    there (`intact`). Raises OutputError where that was another run.
    """

    def __init__(self, path: Path, fingerprint: str, *, resume: bool, intact: bool = True) -> None:
        self.done: dict[int, dict[int, Done]] = {}
        self._lock = threading.Lock()
        head = {"plan": fingerprint, "boot": _boot()}
        kept, valid = self._read(path, head) if resume and path.is_file() else ([], 0)
        if not (kept and intact):
            kept, valid = [], 0
        for task, done in kept:
            self.done.setdefault(task, {})[done.start] = done
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.ftruncate(self._file, valid)
        if not valid:
            self._append(head)

    def _read(self, path: Path, head: dict[str, str]) -> tuple[list[tuple[int, Done]], int]:
        """The finished pieces of an earlier run, and how many bytes of its journal are sound."""
        lines = path.read_bytes().split(b"\n")[:-1]  # a last line without its end is not done
        first = _parsed(lines[0]) if lines else None
        if not isinstance(first, dict) or first.get("boot") != head["boot"]:
            return [], 0
        if first.get("plan") != head["plan"]:
            raise OutputError(
                f"'{path.parent}' was left by a merge of another recipe or --shard-size, or its "
                "inputs have changed since. Start over with --overwrite, or remove it with "
                "`cermet clean`."
            )
        kept, valid = [], len(lines[0]) + 1
        for line in lines[1:]:
            entry = _entry(line)
            if entry is None:
                break
            kept.append(entry)
            valid += len(line) + 1
        return kept, valid

    def _append(self, entry: object) -> None:
        os.write(self._file, json.dumps(entry, separators=(",", ":")).encode() + b"\n")

    def record(self, task: int, done: Done) -> None:
        """One more piece is finished, and its bytes are in the output file."""
        with self._lock:
            self._append([task, done.start, done.stop, done.output, done.inputs, done.parts])
            self.done.setdefault(task, {})[done.start] = done

    def close(self) -> None:
        """Stop writing; a thread that was not waited for fails if it goes on."""
        with self._lock:
            os.close(self._file)
            self._file = -1


def _parsed(line: bytes) -> Any:
    """What a line says; None where it is damaged."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _entry(line: bytes) -> tuple[int, Done] | None:
    """A finished piece; None where the line is damaged."""
    entry = _parsed(line)
    if not isinstance(entry, list) or len(entry) != 6:
        return None
    if not all(isinstance(part, list) for part in entry[4:]):
        return None
    if not all(type(number) is int for number in (*entry[:4], *entry[4], *entry[5])):
        return None
    task, start, stop, output, inputs, parts = entry
    return task, Done(start, stop, output, inputs, parts)
