"""Where a model is: a folder here, or a repository on the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from cermet.core.errors import InputError

__all__ = ["locate"]

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+|[A-Za-z0-9][\w.-]*")
_WANTED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "README.md"]
_BIN = ["pytorch_model*.bin"]
_SECONDS = 10.0  # how long the hub may take to say that it is there


def locate(name: str, revision: str | None = None, root: Path | None = None) -> Path:
    """The folder (or .safetensors file) of a model; fetched from the hub if it is not here.

    A relative path is looked for in `root` first, where one is given. Raises InputError in
    one sentence where there is no such folder and the hub cannot help.
    """
    try:
        path = Path(name).expanduser()
        if root is not None and (root / path).exists():
            path = root / path
        here = path.exists()
    except (OSError, RuntimeError) as error:  # a name too long, a home that is not there
        raise InputError(f"There is no folder '{name[:200]}' ({error}).") from error
    if here:
        if revision is not None:
            raise InputError(f"'{name}' is a local folder, so '@{revision}' has no meaning.")
        return path
    kind = "file" if path.suffix == ".safetensors" else "folder"  # a file is no repository
    if kind == "file" or not _HUB_NAME.fullmatch(name) or "/" not in name:
        raise InputError(f"There is no {kind} '{name}'.")
    from huggingface_hub import snapshot_download

    try:
        found = Path(_fetch(snapshot_download, name, revision, _WANTED))
        if not any(found.glob("*.safetensors")) and not (found / "adapter_config.json").exists():
            found = Path(_fetch(snapshot_download, name, revision, _WANTED + _BIN))
    except Exception as error:  # the hub's client raises errors of many libraries
        reason = type(error).__name__
        raise InputError(
            f"There is no folder '{name}' here, and it could not be fetched from the hub "
            f"({reason}). Check the name, or the network, or download it first."
        ) from error
    return found


def _fetch(download: object, name: str, revision: str | None, patterns: list[str]) -> str:
    assert callable(download)
    return str(download(name, revision=revision, allow_patterns=patterns, etag_timeout=_SECONDS))
