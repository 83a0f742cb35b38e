"""`cermet demo`."""

from __future__ import annotations

import json as encoder
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cermet.cli.sections import print_uncut

if TYPE_CHECKING:
    from rich.table import Table

    from cermet.demo import DemoTable, Row

__all__ = ["demo"]


def demo(
    dir: Annotated[
        Path | None, typer.Option(help="Where experts and merges are kept; a cache by default.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of utterances, training and merges.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the record as JSON.")] = False,
) -> None:
    """Train four experts, merge them with five methods, and show what the merges are worth."""
    from cermet.cli.progress import parts
    from cermet.demo import run
    from cermet.zoo.steps import Progress

    with parts() as begin:
        table = run(dir, seed, Progress(lambda line: typer.echo(line, err=True), begin))
    if json:
        typer.echo(encoder.dumps(table.record()))
        return
    print_uncut(_table(table))
    for sentence in table.conclusion():
        typer.echo(sentence)


def _table(found: DemoTable) -> Table:
    from rich.table import Table

    domains = list(found.rows[0].accuracy)
    table = Table(title="Accuracy in per cent, on held-out utterances", title_justify="left")
    table.add_column("model", no_wrap=True)
    for name in [*domains, "mean", "worst", "of experts", "at worst", "merge s", "MB"]:
        table.add_column(name, justify="right", no_wrap=True)
    kind = found.rows[0].kind
    for row in found.rows:
        if row.kind != kind:
            table.add_section()
            kind = row.kind
        table.add_row(row.name, *_cells(row, domains))
    return table


def _cells(row: Row, domains: list[str]) -> list[str]:
    shares = [row.accuracy[name] for name in domains]
    shares += [row.mean, row.worst, row.kept_mean, row.kept_worst]
    seconds = "" if row.seconds is None else f"{row.seconds:.2f}"
    return [*(f"{100 * share:.1f}" for share in shares), seconds, f"{row.bytes / 1e6:.0f}"]
