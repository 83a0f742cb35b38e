"""`cermet restore ASSEMBLY OUT --task NAME`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cermet.core.errors import InputError

__all__ = ["restore"]


def restore(
    assembly: Annotated[Path, typer.Argument(help="A folder with an assembly.json.")],
    out: Annotated[Path, typer.Argument(help="Folder of the restored checkpoint.")],
    task: Annotated[
        list[str] | None,
        typer.Option(help="Name of an expert, or NAME=WEIGHT; several are averaged."),
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="The base, if it is no longer where the merge found it.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads; all cores by default.")
    ] = None,
    shard_size: Annotated[str, typer.Option(help="Most bytes in one weight file.")] = "5GB",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an output that Cermet wrote.")
    ] = False,
    plugin: Annotated[
        list[Path] | None, typer.Option(help="Python file with methods; it is run as code.")
    ] = None,
) -> None:
    """Get one expert's model back out of an assembly."""
    from rich.filesize import decimal

    from cermet.assemblies import restore as run
    from cermet.cli.progress import Bar
    from cermet.core.registry import load_plugin
    from cermet.engine.manifest import read_manifest
    from cermet.engine.memory import parse_size

    for path in plugin or []:
        load_plugin(path)
    manifest = read_manifest(assembly)
    if not task:
        known = ", ".join(expert.name for expert in manifest.experts)
        raise InputError(f"Name an expert with --task. '{assembly}' has {known}.")
    bar = Bar("restoring")
    bar.start(manifest.merged_bytes, 0)
    with bar:
        done = run(
            assembly,
            out,
            task=_weights(task),
            base=base,
            threads=threads,
            shard_size=parse_size(shard_size),
            overwrite=overwrite,
            progress=bar.advance,
        )
    typer.echo(
        f"{out}: {done.tensors} tensors, {decimal(done.bytes)}, restored in "
        f"{done.seconds:.2f} s (and {done.sync_seconds:.2f} s until all was on the disk)."
    )


def _weights(given: list[str]) -> dict[str, float]:
    """`NAME` and `NAME=WEIGHT`, as names and weights."""
    found: dict[str, float] = {}
    for text in given:
        name, equals, weight = text.rpartition("=")
        if not equals:
            name, weight = text, "1"
        try:
            number = float(weight)
        except ValueError as error:
            raise InputError(f"'{text}' is no task: write NAME or NAME=WEIGHT.") from error
        if name in found:
            raise InputError(f"The task '{name}' is named twice.")
        found[name] = number
    return found
