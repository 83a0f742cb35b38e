"""`cermet zoo list` and `cermet zoo build NAME`."""

from __future__ import annotations

import json as encoder
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["zoo"]

zoo = typer.Typer(
    name="zoo",
    help="Small real pools, trained here: a base, experts, and the tasks to measure them on.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@zoo.command("list")
def show(
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """The pools that can be built, with sizes and times."""
    from cermet.zoo.catalogue import POOLS, find_entry

    entries = [find_entry(name) for name in POOLS]
    if json:
        rows = [
            {
                "name": e.name, "about": e.about, "megabytes": e.megabytes, "minutes": e.minutes,
                "extras": dict(e.extras), "data": e.data, "data_required": e.data_required,
            }
            for e in entries
        ]  # fmt: skip
        typer.echo(encoder.dumps(rows, indent=2))
        return
    for entry in entries:
        typer.echo(
            f"{entry.name}: {entry.about} {entry.megabytes} MB, about {entry.minutes:g} minutes "
            "a seed on 2 cores."
        )
        if entry.data:
            word = "needs" if entry.data_required else "has more with"
            typer.echo(f"    {word} --data: {entry.data}")
        for name, about in entry.extras.items():
            typer.echo(f"    --with {name}: {about}")


@zoo.command()
def build(
    name: Annotated[str, typer.Argument(help="A pool of `cermet zoo list`.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the pool; in the cache by default.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of data and training.")] = 0,
    extras: Annotated[
        list[str] | None, typer.Option("--with", help="An extra of the pool; can stand often.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of published data sets.")] = None,
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Train a pool; what is there already is not trained again."""
    from cermet.cli.progress import parts
    from cermet.zoo.catalogue import Wanted, find_entry, place_of
    from cermet.zoo.steps import Progress
    from cermet.zoo.steps import build as make

    entry = find_entry(name)
    blueprint = entry.draw(Wanted(seed, tuple(extras or ()), data))
    folder = place_of(name, seed) if out is None else out
    with parts() as begin:
        built = make(blueprint, folder, Progress(lambda line: typer.echo(line, err=True), begin))
    if json:
        found = {"folder": str(built.folder), "seconds": dict(built.seconds), "made": built.made}
        typer.echo(encoder.dumps(found))
        return
    spent = sum(built.seconds[step] for step in built.made)
    pools = ", ".join(str(built.folder / pool) for pool in blueprint.pools)
    typer.echo(f"{pools}: {len(built.made)} of {len(built.seconds)} steps made in {spent:.0f} s.")
