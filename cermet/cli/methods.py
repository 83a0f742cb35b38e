"""`cermet methods`, `cermet methods NAME`."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["methods"]


def methods(
    name: Annotated[str | None, typer.Argument(help="One method, to be explained.")] = None,
    plugin: Annotated[
        list[Path] | None, typer.Option(help="Python file with methods; it is run as code.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """List the methods, or explain one."""
    from cermet.core.registry import all_methods, find_method, load_plugin

    for path in plugin or []:
        load_plugin(path)
    if name is not None:
        found = find_method(name)
        if as_json:
            typer.echo(json.dumps(_described(found), indent=2))
        else:
            _explain(found)
        return
    everything = [_described(m) for m in all_methods().values()]
    if as_json:
        typer.echo(json.dumps(everything, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("method", "models", "base", "passes", "what it does", box=None, pad_edge=False)
    for row in everything:
        table.add_row(row["name"], row["models"], row["base"], str(row["passes"]), row["summary"])
    Console().print(table)


def _described(method: Any) -> dict[str, Any]:
    least, most = method.models
    return {
        "name": method.name,
        "summary": method.summary,
        "models": f"{least}" if least == most else f"{least}+",
        "base": {"first": "required", "none": "-"}.get(method.base, method.base),
        "on": method.on,
        "passes": method.passes,
        "random": method.noise,
        "source": method.source,
        "parameters": [
            {
                "name": p.name,
                "per_model": p.per_model,
                "type": p.type_name,
                "required": p.required,
                "default": None if p.required else _default(p.default),
            }
            for p in method.parameters.values()
        ],
        "accepted_without_effect": dict(method.accepts),
        "module": method.function.__module__,
    }


def _default(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) else value


def _explain(method: Any) -> None:
    described = _described(method)
    typer.echo(f"{method.name}  ({method.source})\n")
    typer.echo(inspect.cleandoc(method.function.__doc__ or ""))
    typer.echo("\nIn a recipe")
    typer.echo(f"  models      {described['models']}, base model: {described['base']}")
    typer.echo(f"  passes      up to {described['passes']} over the weights")
    for p in described["parameters"]:
        kind = p["type"] + (", one for each model" if p["per_model"] else "")
        value = "required" if p["required"] else f"default {p['default']}"
        typer.echo(f"  {p['name']:<18}{kind}; {value}")
    for name, reason in method.accepts.items():
        typer.echo(f"  {name:<18}accepted, no effect: {reason}")
