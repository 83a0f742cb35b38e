"""`cermet verify out/`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["verify"]


def verify(
    path: Annotated[Path, typer.Argument(help="A folder that `cermet merge` wrote.")],
    seed: Annotated[int, typer.Option(help="Chooses the tensors that are made again.")] = 0,
    load: Annotated[
        bool, typer.Option("--load", help="Also run it beside its sources (transformers).")
    ] = False,
) -> None:
    """Check a merged checkpoint: its bytes, its numbers, and whether it can be made again."""
    from cermet import api
    from cermet.core.errors import DataError, InputError
    from cermet.engine.adapter_files import FORM
    from cermet.engine.record import record_in

    if load and record_in(path).get("of") == FORM:
        raise InputError(
            f"'{path}' is an adapter, which is no model to be run; merge base+{path} and load that."
        )
    found = api.verify(path, seed=seed)
    typer.echo(f"{found.checked} tensors read, {found.remade} made again from the recipe.")
    for problem in found.problems:
        typer.echo(f"  {problem}", err=True)
    for text in found.advice:
        typer.echo(text, err=True)
    if found.problems:
        raise DataError(f"'{path}' has {len(found.problems)} problem(s), listed above.")
    typer.echo("Every digest agrees, every number is finite.")
    if load:
        _look(path)


def _look(path: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from cermet.diagnosis import diagnose

    rows, verdict = diagnose(path)
    table = Table(
        "model", "loads", "finite", "loss", "top-1 as the merge", box=None, pad_edge=False
    )
    for row in rows:
        table.add_row(
            row.name,
            row.architecture,
            "yes" if row.finite else "NO",
            "-" if row.loss is None else f"{row.loss:.3f}",
            "-" if row.agreement is None else f"{row.agreement:.0%}",
        )
    Console().print(table)
    typer.echo(verdict)
