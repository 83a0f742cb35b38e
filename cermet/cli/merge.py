"""`cermet merge recipe.yaml out/`."""

from __future__ import annotations

import gc
import shlex
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cermet.core.errors import InputError

if TYPE_CHECKING:
    from cermet.api import Merged
    from cermet.recipes.adapters import AdapterPlan
    from cermet.recipes.plan import Plan

__all__ = ["merge"]


def merge(
    recipe: Annotated[
        str, typer.Argument(help="The recipe, a YAML file; with --continue, one more expert.")
    ],
    out: Annotated[
        Path | None, typer.Argument(help="Folder of the merged checkpoint.", show_default=False)
    ] = None,
    named: Annotated[
        Path | None, typer.Option("--out", "-o", help="The folder OUT, where it is not given so.")
    ] = None,
    continued: Annotated[
        Path | None,
        typer.Option("--continue", help="A finished merge (opcm) that takes one more expert."),
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="With --continue: where the base is, if it has moved.")
    ] = None,
    memory: Annotated[str, typer.Option(help="Working memory, such as 256MB or 2GB.")] = "1GB",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads; all cores by default.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    shard_size: Annotated[str, typer.Option(help="Most bytes in one weight file.")] = "5GB",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from an unfinished run.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an output that Cermet wrote.")
    ] = False,
    mergekit_compat: Annotated[
        bool,
        typer.Option("--mergekit-compat", help="Only warn of keys that mergekit ignores."),
    ] = False,
    plugin: Annotated[
        list[Path] | None, typer.Option(help="Python file with methods; it is run as code.")
    ] = None,
) -> None:
    """Merge models into one checkpoint, as a recipe says."""
    from cermet import api
    from cermet.cli.progress import Bar
    from cermet.continuation import continue_merge
    from cermet.core.registry import load_plugin
    from cermet.engine.memory import parse_size

    # torch leaves half a million objects behind, and nothing of what was imported is ever
    # garbage: looking through them again and again costs more than a merge of a small model.
    gc.freeze()
    for path in plugin or []:
        load_plugin(path)
    into = _output(out, named)
    bar = Bar("merging")
    run: Callable[..., Merged]
    if continued is None:
        if base is not None:
            raise InputError("--base goes with --continue; a recipe names its own base.")
        run = partial(api.merge, Path(recipe), compat=mergekit_compat)
    else:
        run = partial(continue_merge, continued, recipe, base=base)

    def planned(plan: Plan | AdapterPlan) -> None:
        for warning in plan.warnings:
            typer.echo(f"warning: {warning}", err=True)
        for note in plan.notes:
            typer.echo(f"note: {note}", err=True)
        bar.start(plan.bytes_written(), len(plan.tasks))

    try:
        with bar:
            done = run(
                out=into,
                memory=parse_size(memory),
                threads=threads,
                device=device,
                shard_size=parse_size(shard_size),
                resume=resume,
                overwrite=overwrite,
                progress=bar.advance,
                planned=planned,
            )
    except KeyboardInterrupt:
        again = [a for a in sys.argv[1:] if a != "--resume"]
        typer.echo(
            f"cermet: interrupted. Continue with: {shlex.join(['cermet', *again, '--resume'])}",
            err=True,
        )
        raise SystemExit(130) from None
    _tell(done, into)


def _tell(done: Merged, into: Path) -> None:
    """What was written, what a rank left out, and how to get an expert back."""
    from rich.filesize import decimal

    resumed = f", {done.resumed_pieces} pieces were there already" if done.resumed_pieces else ""
    typer.echo(
        f"{into}: {done.tensors} tensors, {decimal(done.bytes)}, merged in "
        f"{done.seconds:.2f} s (and {done.sync_seconds:.2f} s until all was on the disk)"
        f"{resumed}."
    )
    if any(done.lost.values()):
        module, most = max(done.lost.items(), key=lambda item: item[1])
        mean = sum(done.lost.values()) / len(done.lost)
        typer.echo(
            f"The rank left out {mean:.1%} of the norm of a module's delta in the mean, and "
            f"{most:.1%} at most ({module})."
        )
    if done.experts:
        typer.echo(
            f"{decimal(done.parts_bytes)} beside it restore {', '.join(done.experts)}: "
            f"cermet restore {shlex.quote(str(into))} OUT --task NAME"
        )


def _output(out: Path | None, named: Path | None) -> Path:
    """The folder of the output, which stands in one of two places."""
    if (out is None) == (named is None):
        raise InputError("Name one folder for the output: as the last argument, or with --out.")
    found = out or named
    assert found is not None
    return found
