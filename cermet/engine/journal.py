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
from cermet.engine.job import Done

__all__ = ["Journal"]

_BOOT = Path("/proc/sys/kernel/random/boot_id")


def _boot() -> str:
    return _BOOT.read_text().strip() if _BOOT.is_file() else ""


class Journal:
    """Finished pieces of a run: task -> start of piece -> what it left."""

    def __init__(self, path: Path, fingerprint: str, *, resume: bool) -> None:
        self.done: dict[int, dict[int, Done]] = {}
        self._lock = threading.Lock()
        head = {"plan": fingerprint, "boot": _boot()}
        kept = self._read(path, head) if resume and path.is_file() else []
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
        self._file = os.open(path, flags, 0o644)
        self._append(head)
        for task, done in kept:
            self.record(task, done)

    def _read(self, path: Path, head: dict[str, str]) -> list[tuple[int, Done]]:
        lines = path.read_bytes().split(b"\n")[:-1]  # a last line without its end is not done
        entries: list[Any] = []
        for line in lines:
            try:
                entries.append(json.loads(line))
            except ValueError:
                break
        if not entries or entries[0].get("boot") != head["boot"]:
            return []
        if entries[0].get("plan") != head["plan"]:
            raise OutputError(
                f"'{path.parent}' was left by a merge of another recipe, or its inputs have "
                "changed since. Start over with --overwrite, or remove it with `cermet clean`."
            )
        return [(e[0], Done(e[1], e[2], e[3], e[4])) for e in entries[1:]]

    def _append(self, entry: object) -> None:
        os.write(self._file, json.dumps(entry, separators=(",", ":")).encode() + b"\n")

    def record(self, task: int, done: Done) -> None:
        """One more piece is finished, and its bytes are in the output file."""
        with self._lock:
            self._append([task, done.start, done.stop, done.output, done.inputs])
            self.done.setdefault(task, {})[done.start] = done

    def close(self) -> None:
        """Stop writing."""
        os.close(self._file)
