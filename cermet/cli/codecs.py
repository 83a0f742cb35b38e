"""`cermet codecs`, `cermet codecs NAME`."""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from cermet.core.codec import Codec

__all__ = ["codecs"]


def codecs(
    name: Annotated[str | None, typer.Argument(help="One codec, to be explained.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """List the codecs of `compress`, or explain one."""
    from rich.console import Console
    from rich.table import Table

    from cermet.core.codec import all_codecs, find_codec

    if name is not None:
        found = find_codec(name)
        if as_json:
            typer.echo(json.dumps(_described(found), indent=2))
        else:
            _explain(found)
        return
    rows = [_described(codec) for codec in all_codecs().values()]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table("codec", "parameters", "what it does", box=None, pad_edge=False)
    for row in rows:
        names = ", ".join(p["name"] for p in row["parameters"])
        table.add_row(row["name"], names or "-", row["summary"])
    Console().print(table)


def _described(codec: Codec) -> dict[str, Any]:
    return {
        "name": codec.name,
        "summary": codec.summary,
        "source": codec.source,
        "grain": codec.grain,
        "rest": codec.otherwise,
        "passes": len(codec.rounds) + 1,
        "random": codec.noise,
        "adapter": codec.adapter,
        "statistics": [{"name": e.name, "about": e.about} for e in codec.extras],
        "parameters": [
            {
                "name": p.name,
                "type": p.type_name,
                "default": None if p.required else p.default,
                "limits": list(p.limits),
            }
            for p in codec.parameters.values()
        ],
    }


def _explain(codec: Codec) -> None:
    described = _described(codec)
    typer.echo(f"{codec.name}  ({codec.source})\n")
    typer.echo(inspect.cleandoc(codec.function.__doc__ or ""))
    typer.echo("\nOn the command line")
    whole = "whole matrices" if codec.grain == "tensor" else "runs of 262,144 weights"
    typer.echo(f"  passes            up to {described['passes']} over base and expert")
    typer.echo(f"  memory            {codec.workspace + 2:.0f} float32 copies of {whole} a thread")
    for extra in codec.extras:
        typer.echo(f"  {extra.name:<18}statistic, with --needs {extra.name}=FILE: {extra.about}")
    for p in described["parameters"]:
        typer.echo(f"  {p['name']:<18}{p['type']}; default {str(p['default']).lower()}")
