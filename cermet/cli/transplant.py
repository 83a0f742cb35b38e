"""`cermet transplant MODEL DONOR OUT`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["transplant"]


def transplant(
    model: Annotated[str, typer.Argument(help="The model that gets another tokenizer.")],
    donor: Annotated[str, typer.Argument(help="The model whose tokenizer it gets.")],
    out: Annotated[Path, typer.Argument(help="Folder of the result.")],
    k: Annotated[
        int, typer.Option("--k", min=1, help="Most shared tokens that make up a new one.")
    ] = 64,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads; all cores by default.")
    ] = None,
    shard_size: Annotated[str, typer.Option(help="Most bytes in one weight file.")] = "5GB",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an output that Cermet wrote.")
    ] = False,
) -> None:
    """Give a model the tokenizer of another one."""
    from itertools import islice

    from rich.console import Console
    from rich.filesize import decimal
    from rich.table import Table

    from cermet.cli.progress import Bar
    from cermet.engine.memory import parse_size
    from cermet.transplants import transplant as run

    bar = Bar("transplanting")
    with bar:
        done = run(
            model,
            donor,
            out,
            k=k,
            threads=threads,
            shard_size=parse_size(shard_size),
            overwrite=overwrite,
            progress=bar.advance,
            planned=bar.start,
        )
    for warning in done.warnings:
        typer.echo(f"warning: {warning}", err=True)
    typer.echo(
        f"{out}: {done.tensors} tensors, {decimal(done.bytes)}, in {done.seconds:.2f} s (and "
        f"{done.sync_seconds:.2f} s until all was on the disk)."
    )
    typer.echo(
        f"{done.tokens:,} tokens in {done.rows:,} rows: {done.shared:,} shared, "
        f"{done.approximated:,} approximated, {done.unknown:,} zero."
    )
    if not done.approximated:
        return
    table = Table(
        "off by, of 1", "mean", "worst", "mean row instead", "worst tokens", box=None,
        pad_edge=False,
    )  # fmt: skip
    for each in done.errors:
        worst = " ".join(repr(token)[1:-1] for token in islice(each.by_token, 3))
        numbers = (f"{number:.3f}" for number in (each.mean, each.worst, each.baseline))
        table.add_row(each.tensor, *numbers, worst)
    Console(soft_wrap=True).print(table, markup=False, highlight=False)
