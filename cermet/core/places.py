"""Where Cermet keeps what it can make again."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder(name: str) -> Path:
    """A folder of that name in $CERMET_CACHE, or in cermet in the platform's cache."""
    given = os.environ.get("CERMET_CACHE")
    if given:
        return Path(given).expanduser() / name
    home = Path.home()
    if sys.platform == "darwin":
        place = home / "Library" / "Caches"
    elif sys.platform == "win32":
        place = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    else:
        place = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return place / "cermet" / name
