"""How a folder of what is trained here is put in its place in one step."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cermet.core.errors import DiskError, OutputError

__all__ = ["MARK", "replaced"]

MARK = "zoo.json"
"""The file that tells a folder written here from any other."""


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """A new folder to write into; it takes the name `folder` when the block ends well.

    An older one of that name goes away, unless it holds no MARK: then it is not ours, and
    OutputError is raised before anything is written. DiskError where writing fails.
    """
    if folder.exists() and not (folder / MARK).is_file():
        raise OutputError(
            f"'{folder}' is in the way: it was not written here. Move it, or give another folder."
        )
    new = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        yield new
        new.chmod(0o755)  # mkdtemp's folders are closed to everyone else
        _exchange(new, folder)
    except OSError as error:
        raise DiskError(f"'{folder}' cannot be written: {error.strerror or error}.") from error
    finally:
        if new is not None and new.exists():
            shutil.rmtree(new)


def _exchange(new: Path, folder: Path) -> None:
    if folder.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        folder.rename(old / "old")
        new.rename(folder)
        shutil.rmtree(old)
    else:
        new.rename(folder)
