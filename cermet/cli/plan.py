"""`cermet plan recipe.yaml`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["plan"]


def plan(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.")],
    out: Annotated[
        Path | None, typer.Argument(help="Where the output would go, to look at its disk.")
    ] = None,
    memory: Annotated[str, typer.Option(help="Working memory, such as 256MB or 2GB.")] = "1GB",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads; all cores by default.")
    ] = None,
    shard_size: Annotated[str, typer.Option(help="Most bytes in one weight file.")] = "5GB",
    mergekit_compat: Annotated[
        bool,
        typer.Option("--mergekit-compat", help="Only warn of keys that mergekit ignores."),
    ] = False,
    plugin: Annotated[
        list[Path] | None, typer.Option(help="Python file with methods; it is run as code.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Print what a merge would do, without reading or writing any weights."""
    from cermet import api
    from cermet.cli.adapters import print_adapters
    from cermet.core.registry import load_plugin
    from cermet.engine.forecast import forecast
    from cermet.engine.interference import adapter_forecast
    from cermet.engine.memory import parse_size
    from cermet.engine.options import Options
    from cermet.recipes.adapters import AdapterPlan

    for path in plugin or []:
        load_plugin(path)
    resolved = api.plan(recipe, compat=mergekit_compat)
    if isinstance(resolved, AdapterPlan):
        adapters = adapter_forecast(resolved, out or Path("."))
        if as_json:
            typer.echo(json.dumps(adapters, indent=2))
        else:
            print_adapters(adapters)
        return
    options = Options(parse_size(memory), threads, shard_size=parse_size(shard_size))
    found = forecast(resolved, options, out or Path("."))
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        _print(found)


def _print(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.filesize import decimal
    from rich.table import Table

    console = Console()
    for warning in found["warnings"]:
        console.print(f"warning: {warning}", markup=False)
    for note in found["notes"]:
        typer.echo(f"note: {note}")
    models = Table("model", "tensors", "size", "files", box=None, pad_edge=False)
    for m in (*found["models"], *found["statistics"]):
        models.add_row(m["name"], str(m["tensors"]), decimal(m["bytes"]), str(m["files"]))
    console.print(models)
    console.print()
    if found["vocabulary"] is not None:
        _print_vocabulary(console, found["vocabulary"])
    groups = Table("tensors", "layers", "method", "parameters", "passes", box=None, pad_edge=False)
    for group in found["groups"]:
        groups.add_row(
            f"{group['tensors']} {group['roles']}",
            group["layers"],
            group["method"],
            group["parameters"],
            str(group["passes"]),
        )
    console.print(groups)
    console.print()
    free = "" if found["disk_free"] is None else f" of {decimal(found['disk_free'])} free"
    lines = [
        f"reads   {decimal(found['bytes_read'])} in up to {found['passes']} passes",
        f"writes  {decimal(found['bytes_written'])} in {len(found['files'])} file(s){free}",
        f"memory  {decimal(found['memory'])} for blocks on {found['threads']} thread(s)"
        f" (budget {decimal(found['memory_budget'])})",
        f"time    about {found['seconds']:.0f} s here, roughly",
    ]
    if found["parts"]:
        kept = decimal(sum(part["bytes"] for part in found["parts"]))
        names = ", ".join(found["experts"])
        lines.insert(2, f"keeps   {kept} in {len(found['parts'])} file(s) to restore {names}")
    for line in lines:
        console.print(line, markup=False, highlight=False)


def _print_vocabulary(console: Console, found: dict[str, Any]) -> None:
    """Where the rows of each model's embedding come from."""
    from rich.table import Table

    rows = Table("rows", "own", "of other models", "mean", "zero", "padding", box=None,
                 pad_edge=False)  # fmt: skip
    for m in found["models"]:
        given = ", ".join(f"{count:,} of {name}" for name, count in m["given"].items())
        numbers = (f"{m[key]:,}" for key in ("averaged", "zero", "padding"))
        rows.add_row(m["model"], f"{m['own']:,}", given or "0", *numbers)
    console.print(
        f"vocabulary  {found['tokens']:,} tokens in {found['rows']:,} rows (tokenizer: "
        f"{found['source']})",
        markup=False, highlight=False,
    )  # fmt: skip
    console.print(rows, markup=False)
    console.print()
