"""`cermet restore ASSEMBLY OUT --task NAME`, `cermet restore ARCHIVE OUT --base BASE`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cermet.core.errors import InputError

__all__ = ["restore"]


def restore(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="[BASE] FOLDER OUT",
            help="An assembly or a delta archive, and the folder of the restored checkpoint. The "
            "base of an archive may stand before them.",
        ),
    ],
    task: Annotated[
        list[str] | None,
        typer.Option(help="Name of an expert, or NAME=WEIGHT; several are averaged."),
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="The base, if it is no longer where it was found.")
    ] = None,
    memory: Annotated[
        str, typer.Option(help="Working memory, for archives that need whole matrices.")
    ] = "1GB",
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
    """Get an expert's model back out of an assembly or a delta archive."""
    from rich.filesize import decimal

    from cermet.assemblies import restore as run
    from cermet.cli.progress import Bar
    from cermet.core.registry import load_plugin
    from cermet.engine.archive import is_archive, read_archive
    from cermet.engine.manifest import read_manifest
    from cermet.engine.memory import parse_size

    for path in plugin or []:
        load_plugin(path)
    folder, out, base = _places(folders, base)
    bar = Bar("restoring")
    if is_archive(folder):
        archive = read_archive(folder)
        bar.start(archive.nbytes, len(archive.tensors))
    else:
        manifest = read_manifest(folder)
        if not task:
            known = ", ".join(expert.name for expert in manifest.experts)
            raise InputError(f"Name an expert with --task. '{folder}' has {known}.")
        bar.start(manifest.merged_bytes, 0)
    with bar:
        done = run(
            folder,
            out,
            task=_weights(task) if task else None,
            base=base,
            memory=parse_size(memory),
            threads=threads,
            shard_size=parse_size(shard_size),
            overwrite=overwrite,
            progress=bar.advance,
        )
    typer.echo(
        f"{out}: {done.tensors} tensors, {decimal(done.bytes)}, restored in "
        f"{done.seconds:.2f} s (and {done.sync_seconds:.2f} s until all was on the disk)."
    )


def _places(folders: list[Path], base: str | None) -> tuple[Path, Path, str | None]:
    """What is restored from, where to, and the base where one is named."""
    from cermet.engine.archive import MANIFEST, is_archive

    if len(folders) == 2:
        return folders[0], folders[1], base
    if len(folders) != 3:
        raise InputError("Name what is restored from, and the folder of the output.")
    if base is not None:
        raise InputError(f"The base is named twice: '{folders[0]}', and --base '{base}'.")
    if not is_archive(folders[1]):
        raise InputError(f"'{folders[1]}' holds no {MANIFEST}; a base stands before archives only.")
    return folders[1], folders[2], str(folders[0])


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
