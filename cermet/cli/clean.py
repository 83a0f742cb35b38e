"""`cermet clean`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["clean"]


def clean(
    folder: Annotated[Path, typer.Argument(help="Where outputs were being written.")] = Path("."),
    remove: Annotated[bool, typer.Option("--remove", help="Remove what is listed.")] = False,
) -> None:
    """List what abandoned merges have left in a folder, and remove it if asked."""
    from rich.filesize import decimal

    from cermet import api

    found = api.clean(folder, remove=remove)
    for path, size in found:
        typer.echo(f"{'removed' if remove else 'left over'}: {path} ({decimal(size)})")
    if not found:
        typer.echo(f"Nothing was left over in '{folder}'.")
    elif not remove:
        typer.echo("Continue a merge with --resume, or remove these with: cermet clean --remove")
