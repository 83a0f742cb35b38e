"""The output folder: it appears under its name only when it is complete."""

from __future__ import annotations

import json
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO

from cermet.core.errors import (
    CermetError,
    DataError,
    DiskError,
    MachineError,
    MethodError,
    OutputError,
)

__all__ = ["RECORD", "OutputFolder", "leftovers"]

RECORD = "cermet.json"
"""Name of the record that every folder written by Cermet holds."""

_JOURNAL, _LOCK = "journal.jsonl", "lock"
_SIGN = b"cermet"  # what the lock of a working folder says, so that no other is taken for one
_PATIENCE = 1.0  # seconds to wait for the lock of a working folder
_WORK, _OLD = ".cermet", ".cermet-old"


def leftovers(parent: Path, *, remove: bool) -> list[tuple[Path, int]]:
    """What runs have left in a folder and no run is using, with its bytes; removed if asked."""
    found = []
    for path in sorted(parent.glob(f".*{_WORK}")):
        if not (_is_ours(path) and (path / _LOCK).is_file()):
            continue
        with (path / _LOCK).open("a") as file:
            if _lock(file):
                found.append((path, _size(path)))
                if remove:
                    _remove(path)
    for path in sorted(parent.glob(f".*{_OLD}")):
        # An output that was being replaced; if its successor is not there, it is the only one.
        if _foreign(path) is None and _filled(parent / path.name[1 : -len(_OLD)]):
            found.append((path, _size(path)))
            if remove:
                _remove(path)
    return found


def _size(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.iterdir())


def _filled(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


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


def _is_ours(work: Path) -> bool:
    """Whether a folder with the name of a working folder is one, and not somebody else's."""
    if not work.is_dir():
        return False
    lock = work / _LOCK
    if lock.is_file():
        with lock.open("rb") as file:
            if file.read(len(_SIGN) + 1) == _SIGN:
                return True
    # A run that was killed, or is, between making the folder and signing its lock.
    return all(p.name == _LOCK and p.stat().st_size == 0 for p in work.iterdir())


def _foreign(out: Path) -> str | None:
    """The first name in an output folder that Cermet did not write."""
    try:
        own = {*map(str, json.loads((out / RECORD).read_text("utf-8"))["files"])}
    except (OSError, ValueError, KeyError, TypeError):
        own = set()
    else:
        own |= {RECORD, _JOURNAL, _LOCK}  # the two: of a run killed as it published
    return next((n for n in sorted(p.name for p in out.iterdir()) if n not in own), None)


def _remove(folder: Path) -> None:
    """Remove a folder of Cermet's; what identifies it goes last."""
    inside = sorted(folder.iterdir(), key=lambda p: p.name in (RECORD, _LOCK))
    for path in inside:
        if path.is_dir() and not path.is_symlink():
            raise OutputError(
                f"'{path}' is a folder, which Cermet did not write, so '{folder}' is not removed."
            )
    for path in inside:
        path.unlink(missing_ok=True)
    folder.rmdir()


class OutputFolder:
    """A folder that is being written, under another name until `publish`.

    Raises OutputError where the output exists, is being written, or cannot be resumed;
    DiskError where the place cannot be written.
    """

    def __init__(self, out: Path, *, resume: bool, overwrite: bool) -> None:
        self._overwrite, self._resume = overwrite, resume
        try:
            self.out = Path(os.path.realpath(out))
            self.work = self.out.parent / f".{self.out.name}{_WORK}"
            self._old = self.out.parent / f".{self.out.name}{_OLD}"
            self.journal = self.work / _JOURNAL
            self._check_target()
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._claim()
        except OSError as error:
            raise DiskError(f"'{out}' cannot be written: {error.strerror or error}.") from error
        try:
            self._recover()
            self._check_target()
            if not resume and not overwrite and self.journal.is_file():
                raise OutputError(
                    f"An unfinished merge into '{out}' is here. Continue it with --resume, or "
                    "start over with --overwrite."
                )
        except BaseException:
            if not self.journal.is_file() and not self.files():
                self.discard()
            self._file.close()
            raise

    def _check_target(self) -> None:
        if not self.out.exists():
            return
        if not self.out.is_dir():
            raise OutputError(f"'{self.out}' is a file; the output is a folder.")
        if not _filled(self.out):
            return
        if not self._overwrite:
            raise OutputError(f"'{self.out}' exists. Choose another name, or use --overwrite.")
        foreign = _foreign(self.out)
        if foreign is not None:
            raise OutputError(
                f"'{self.out}' holds '{foreign}', which Cermet did not write, so it is not "
                "overwritten. Move it, or choose another name."
            )

    def _claim(self) -> IO[str]:
        """Make the working folder, unless it is there, and hold its lock.

        The workers of a run that was killed hold the lock a moment longer than the run, and
        another run may take its folder away at any time, so it is tried for a while.
        """
        patience = time.monotonic() + _PATIENCE
        while True:
            try:
                file = self._locked()
            except (FileNotFoundError, FileExistsError):  # the folder was taken away just now
                if time.monotonic() > patience:
                    raise
            else:
                if file is not None:
                    return file
                if time.monotonic() > patience:
                    raise OutputError(f"Another merge is writing '{self.out}' right now.")
            time.sleep(0.02)

    def _locked(self) -> IO[str] | None:
        """The lock of the working folder, signed; None where another run has it."""
        self.work.mkdir(exist_ok=True)
        if not _is_ours(self.work):
            raise OutputError(f"'{self.work}' is in the way, and Cermet did not write it.")
        lock = self.work / _LOCK
        file = lock.open("a")
        with suppress(FileNotFoundError):  # as it is looked at, it may be gone
            if _lock(file) and os.path.samestat(lock.stat(), os.fstat(file.fileno())):
                if file.tell() == 0:
                    file.write(_SIGN.decode())
                    file.flush()
                return file
        file.close()
        return None

    def _recover(self) -> None:
        """Finish what a run that was killed while it published has left."""
        if not self._old.exists():
            return
        if _foreign(self._old) is not None:
            raise OutputError(f"'{self._old}' is in the way, and Cermet did not write it.")
        if _filled(self.out):
            _remove(self._old)
        else:
            os.replace(self._old, self.out)

    def clear(self) -> None:
        """Remove what an earlier run has left, but for its lock and journal."""
        for path in self.work.iterdir():
            if path.name not in (_LOCK, _JOURNAL):
                path.unlink()

    def files(self) -> list[str]:
        """Names of the files that the output will have beside its record."""
        own = (_LOCK, _JOURNAL, RECORD)
        return sorted(p.name for p in self.work.iterdir() if p.name not in own)

    def check_space(self, size: int) -> None:
        """Refuse a disk that cannot hold an output of so many bytes."""
        free = shutil.disk_usage(self.work).free
        if size > free:
            raise DiskError(
                f"The output takes {size / 1e9:.2f} GB, but '{self.out.parent}' has "
                f"{free / 1e9:.2f} GB free."
            )

    def publish(self) -> None:
        """Give the finished folder its name; what stood there before is removed last."""
        self._check_target()  # once more: somebody may have written there meanwhile
        try:
            if self.out.exists():
                os.replace(self.out, self._old)
            os.replace(self.work, self.out)
        except BaseException:
            if self._old.exists() and not self.out.exists():
                os.replace(self._old, self.out)
            raise
        # Not before: the lock keeps other merges out of the folder.
        (self.out / _JOURNAL).unlink(missing_ok=True)  # a restoring run keeps none
        (self.out / _LOCK).unlink()
        if self._old.exists():
            _remove(self._old)
        self._file.close()

    def discard(self) -> None:
        """Remove the working folder of a run that cannot be continued."""
        with suppress(OSError, OutputError):
            _remove(self.work)

    def __enter__(self) -> OutputFolder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # What cannot succeed when it is run again leaves nothing behind, nor does what has not
        # begun; an interrupted run leaves what it has.
        hopeless = isinstance(error, DataError | MachineError | MethodError)
        begun = self.journal.is_file()
        if isinstance(error, CermetError) and not self._resume and (hopeless or not begun):
            self.discard()
        self._file.close()
