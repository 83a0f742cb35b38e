"""The output folder: it appears under its name only when it is complete."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import IO

from cermet.core.errors import DataError, DiskError, MachineError, OutputError

__all__ = ["RECORD", "OutputFolder", "leftovers"]

RECORD = "cermet.json"
"""Name of the record that every folder written by Cermet holds."""

_JOURNAL, _LOCK = "journal.jsonl", "lock"


def _working(out: Path) -> Path:
    return out.parent / f".{out.name}.cermet"


def leftovers(parent: Path) -> list[Path]:
    """Working folders that runs have left in a folder, and that no run is using."""
    found = []
    for path in sorted(parent.glob(".*.cermet")):
        if (path / _LOCK).is_file():
            with (path / _LOCK).open("w") as file:
                if _lock(file):
                    found.append(path)
    return found


def _lock(file: IO[str]) -> bool:
    """Whether this process now holds the lock; it ends with the process, however it ends."""
    try:
        import fcntl
    except ImportError:  # Windows has no flock; there two runs into one folder are not seen
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


class OutputFolder:
    """A folder that is being written, under another name until `publish`.

    Raises OutputError where the output exists, is being written, or cannot be resumed;
    DiskError where the place cannot be written.
    """

    def __init__(self, out: Path, *, resume: bool, overwrite: bool) -> None:
        self.out = out.absolute()
        self.work = _working(self.out)
        self.journal = self.work / _JOURNAL
        self._overwrite, self._resume = overwrite, resume
        self._check_target()
        try:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            existed = self.work.exists()
            self.work.mkdir(exist_ok=True)
            self._file = (self.work / _LOCK).open("w")
        except OSError as error:
            raise DiskError(
                f"'{self.out.parent}' cannot be written: {error.strerror or error}."
            ) from error
        if not _lock(self._file):
            raise OutputError(f"Another merge is writing '{out}' right now.")
        if existed and not resume:
            if self.journal.is_file() and not overwrite:
                self._file.close()
                raise OutputError(
                    f"An unfinished merge into '{out}' is here. Continue it with --resume, or "
                    "start over with --overwrite."
                )
            self._clear()

    def _check_target(self) -> None:
        if not self.out.exists():
            return
        if not self.out.is_dir():
            raise OutputError(f"'{self.out}' is a file; the output is a folder.")
        inside = sorted(p.name for p in self.out.iterdir())
        if not inside:
            return
        if not self._overwrite:
            raise OutputError(f"'{self.out}' exists. Choose another name, or use --overwrite.")
        own = self._own_files()
        foreign = [name for name in inside if name not in own]
        if foreign:
            raise OutputError(
                f"'{self.out}' holds '{foreign[0]}', which Cermet did not write, so it is not "
                "overwritten. Move it, or choose another name."
            )

    def _own_files(self) -> set[str]:
        try:
            record = json.loads((self.out / RECORD).read_text("utf-8"))
            return {RECORD, *map(str, record["files"])}
        except (OSError, ValueError, KeyError, TypeError):
            return set()

    def _clear(self) -> None:
        for path in self.work.iterdir():
            if path.name != _LOCK:
                path.unlink()

    def files(self) -> list[str]:
        """Names of the files that the output will have."""
        return sorted(p.name for p in self.work.iterdir() if p.name not in (_LOCK, _JOURNAL))

    def publish(self) -> None:
        """Give the finished folder its name; what stood there before is removed last."""
        self.journal.unlink(missing_ok=True)
        (self.work / _LOCK).unlink(missing_ok=True)
        old = self.out.parent / f".{self.out.name}.cermet-old"
        if self.out.exists():
            if old.exists():
                shutil.rmtree(old)
            os.replace(self.out, old)
        os.replace(self.work, self.out)
        if old.exists():
            shutil.rmtree(old)
        self._file.close()

    def discard(self) -> None:
        """Remove the working folder of a run that cannot be continued."""
        shutil.rmtree(self.work, ignore_errors=True)

    def __enter__(self) -> OutputFolder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # What cannot succeed when it is run again leaves nothing behind; an interrupted run
        # leaves what it has.
        if isinstance(error, DataError | MachineError) and not self._resume:
            self.discard()
        self._file.close()
