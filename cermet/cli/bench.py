"""`cermet bench POOL`."""

from __future__ import annotations

import json as encoder
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cermet.cli.options import Device, Memory, Threads, words

if TYPE_CHECKING:
    from cermet.proving.table import Table

__all__ = ["bench"]

_WIDE = 200  # columns of a table that goes into a file or a pipe


def bench(
    pool: Annotated[
        str, typer.Argument(help="A pool of `cermet zoo list`, or a pool.yaml or its folder.")
    ],
    methods: Annotated[
        str, typer.Option(help="Names of methods and codecs, with commas; or all.")
    ] = "all",
    seeds: Annotated[
        int, typer.Option(help="Of the pool, if it is built here; else of random methods.")
    ] = 1,
    first_seed: Annotated[int, typer.Option(help="The first of them, to share work out.")] = 0,
    points: Annotated[int, typer.Option(help="Coefficients that each method may try.")] = 5,
    experts: Annotated[
        str, typer.Option(help="Also measure pools of the first so many experts: 2,4,6,8.")
    ] = "",
    out: Annotated[
        Path | None, typer.Option(help="Folder of the records; bench-POOL by default.")
    ] = None,
    show: Annotated[
        bool, typer.Option("--show", help="Print what was measured; run nothing.")
    ] = False,
    limit: Annotated[int | None, typer.Option(help="Examples of each task at most.")] = None,
    extras: Annotated[
        list[str] | None, typer.Option("--with", help="An extra of the zoo's pool to build.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of published data sets.")] = None,
    device: Device = "cpu",
    threads: Threads = None,
    memory: Memory = "1GB",
    plots: Annotated[
        bool, typer.Option(help="Draw quality against bytes, and against experts.")
    ] = True,
    json: Annotated[bool, typer.Option("--json", help="Print the tables for programs.")] = False,
) -> None:
    """Measure every method on a pool: coefficients chosen on validation, told on test.

    A run that was stopped goes on where it was, if the same command is given.
    """
    from cermet.cli.progress import parts
    from cermet.engine.memory import parse_size
    from cermet.proving.bench import Settings, shown
    from cermet.proving.bench import bench as run
    from cermet.proving.trial import Heard
    from cermet.zoo.steps import Progress

    folder = out or Path(f"bench-{Path(pool).resolve().name if Path(pool).exists() else pool}")
    if show:
        found = shown(folder)
    else:
        settings = Settings(
            None if methods == "all" else tuple(words(methods)), points, seeds, first_seed,
            _counts(experts), limit, device, threads, parse_size(memory), tuple(extras or ()), data,
        )  # fmt: skip
        try:
            with parts() as begin:

                def echo(line: str) -> None:
                    typer.echo(line, err=True)

                heard = Heard(echo, lambda name, done, total: begin(name)(done, total))
                found = run(pool, folder, settings, heard=heard, built=Progress(echo, begin))
        except KeyboardInterrupt:
            typer.echo(f"'{folder}' keeps what was measured; the same command goes on.", err=True)
            raise
    _pictures(folder, wanted=plots)
    if json:
        typer.echo(encoder.dumps([table.record() for table in found]))
        return
    for table in found:
        _print(table)
    typer.echo(f"Records, tables and pictures: {folder}")


def _counts(text: str) -> tuple[int, ...]:
    from cermet.core.errors import InputError

    try:
        return tuple(sorted({int(word) for word in words(text)}))
    except ValueError:
        raise InputError(
            f"--experts is '{text}'; it is numbers of experts with commas, such as 2,4,6,8."
        ) from None


def _pictures(folder: Path, *, wanted: bool) -> None:
    """Draw what can be drawn; a table without pictures is of use too."""
    from cermet.core.errors import ExtraError
    from cermet.proving.plots import draw
    from cermet.proving.records import Records

    if not wanted:
        return
    try:
        draw(Records(folder, reading=True).latest(), folder)
    except ExtraError as error:
        typer.echo(str(error), err=True)


def _print(table: Table) -> None:
    from rich.console import Console
    from rich.table import Table as Shown

    from cermet.proving.formats import caption, cells, columns

    console = Console() if sys.stdout.isatty() else Console(width=_WIDE)
    lines = Shown(*columns(table), box=None, pad_edge=False)
    for row in cells(table):
        lines.add_row(*row)
    console.print(caption(table), highlight=False, markup=False, soft_wrap=True)
    console.print()
    console.print(lines, highlight=False)
    if table.not_run:
        console.print("\nNot run:")
        for missing in table.not_run:
            line = f"  {missing.name}: {missing.reason}"
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print()
