"""`cermet compress BASE EXPERT -o DELTA --codec NAME`."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cermet.core.errors import InputError

if TYPE_CHECKING:
    from cermet.compression import Compressed
    from cermet.engine.figures import Row

__all__ = ["compress"]

_MOST_ROWS = 12  # of the table by layer


def compress(
    given: Annotated[
        list[str],
        typer.Argument(
            metavar="BASE EXPERT [--PARAMETER VALUE]...",
            help="Two models, and parameters of the codec, which `cermet codecs NAME` lists.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the delta archive.")],
    codec: Annotated[str, typer.Option(help="How the delta is compressed; see `cermet codecs`.")],
    rest: Annotated[
        str | None,
        typer.Option(help="Tensors that the codec does not cover: expert's own, or base's."),
    ] = None,
    needs: Annotated[
        list[str] | None, typer.Option(help="NAME=FILE: statistics that the codec can use.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the codecs that draw at random.")] = 0,
    memory: Annotated[str, typer.Option(help="Working memory, such as 256MB or 2GB.")] = "1GB",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads; all cores by default.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    shard_size: Annotated[str, typer.Option(help="Most bytes in one weight file.")] = "5GB",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an output that Cermet wrote.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report for programs.")] = False,
) -> None:
    """Write what an expert has beyond its base as a small delta archive."""
    models, parameters = _divided(given)
    if len(models) != 2:
        raise InputError(f"Name a base and an expert, not {' '.join(models) or 'nothing'}.")

    from cermet.cli.progress import Bar
    from cermet.compression import compress as run
    from cermet.core.codec import find_codec
    from cermet.engine.memory import parse_size
    from cermet.recipes.opening import open_model
    from cermet.recipes.schema import parse_model

    find_codec(codec)
    expert = open_model(parse_model(models[1]))
    bar = Bar("compressing")
    bar.start(sum(info.nbytes for info in expert.tensors.values()), len(expert.tensors))
    with bar:
        done = run(
            models[0],
            models[1],
            out,
            codec=codec,
            seed=seed,
            rest=rest,  # type: ignore[arg-type]  # `compress` says what it may be
            needs=_files(needs or []),
            memory=parse_size(memory),
            threads=threads,
            device=device,
            shard_size=parse_size(shard_size),
            overwrite=overwrite,
            progress=bar.advance,
            **parameters,
        )
    if as_json:
        typer.echo(json.dumps(asdict(done) | {"path": str(done.path)}, indent=2))
    else:
        _print(done, models[0])


def _divided(given: list[str]) -> tuple[list[str], dict[str, str | None]]:
    """Models, and `--name value` and `--name=value` as parameters."""
    models: list[str] = []
    parameters: dict[str, str | None] = {}
    rest = iter(given)
    for word in rest:
        if not word.startswith("-"):
            models.append(word)
            continue
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--"):
            raise InputError(f"There is no option '{word}'; parameters are written --name VALUE.")
        if not equals:
            value = next(rest, "")
        if not value:
            raise InputError(f"'--{name}' has no value; parameters are written --name VALUE.")
        name = name.replace("-", "_")
        if name in parameters:
            raise InputError(f"'--{name}' is given twice.")
        parameters[name] = None if value == "none" else value
    return models, parameters


def _files(given: list[str]) -> dict[str, str]:
    found = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not equals or not name or not path:
            raise InputError(f"'{text}' is no file of statistics: write NAME=FILE.")
        found[name] = path
    return found


def _print(done: Compressed, base: str) -> None:
    from rich.console import Console
    from rich.filesize import decimal
    from rich.table import Table

    console = Console()
    for title, rows in (("role", done.roles), ("layer", _few(done.layers))):
        table = Table(title, "tensors", "bits a weight", "error", "kept", box=None, pad_edge=False)
        for row in rows:
            kept = ", ".join(f"{count} {_WORDS[how]}" for how, count in row.kept.items())
            table.add_row(row.name, str(row.tensors), f"{row.bits:.3f}", f"{row.error:.4f}", kept)
        console.print(table)
        typer.echo()
    bound = "" if done.bound is None else f" (the entropy of its code is {done.bound:.3f})"
    typer.echo(
        f"{done.path}: {decimal(done.bytes)}, {done.bytes / max(1, done.expert_bytes):.1%} of the "
        f"expert's {decimal(done.expert_bytes)}; {done.bits_per_weight:.3f} bits a weight{bound}, "
        f"error {done.error:.4f} of the delta; in {done.seconds:.2f} s."
    )
    typer.echo(
        f"The expert comes back by: cermet restore {shlex.quote(str(done.path))} OUT "
        f"--base {shlex.quote(base)}"
    )


_WORDS = {
    "coded": "coded",
    "expert": "whole",
    "base": "left out",
    "same": "unchanged",
}


def _few(rows: tuple[Row, ...]) -> tuple[Row, ...]:
    """The layers, so many of them as one row that there are not too many rows."""
    from cermet.engine.figures import together

    size = -(-len(rows) // _MOST_ROWS)
    return tuple(together(rows[i : i + size]) for i in range(0, len(rows), size))
