"""`cermet methods`, `cermet methods NAME`."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["methods"]


def methods(
    name: Annotated[
        str | None, typer.Argument(help="One method or transform, to be explained.")
    ] = None,
    plugin: Annotated[
        list[Path] | None, typer.Option(help="Python file with methods; it is run as code.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
    long: Annotated[
        bool, typer.Option("--long", help="Print source, cost and use of each, not one line.")
    ] = False,
) -> None:
    """List the methods and transforms, or explain one."""
    from cermet.core.registry import (
        all_factor_methods,
        all_methods,
        all_transforms,
        find_step,
        load_plugin,
    )

    for path in plugin or []:
        load_plugin(path)
    if name is not None:
        shelves = [shelf for shelf in (all_methods(), all_transforms()) if name in shelf]
        found = [shelf[name] for shelf in shelves] or [find_step(name)]
        if as_json:
            first, *others = map(_described, found)
            typer.echo(json.dumps(first | {o["kind"]: o for o in others}, indent=2))
        else:
            for i, one in enumerate(found):
                typer.echo("\n" * (2 if i else 0), nl=False)
                _explain(one)
        return
    held = (all_methods(), all_transforms(), all_factor_methods())
    everything = [_described(method) for shelf in held for method in shelf.values()]
    if as_json:
        typer.echo(json.dumps(everything, indent=2))
    elif long:
        typer.echo("\n\n".join("\n".join(_paragraph(row)) for row in everything))
    else:
        _list(everything)


def _list(everything: list[dict[str, Any]]) -> None:
    """A line for each method, then one for each transform, and for each method on adapters."""
    from rich.console import Console
    from rich.table import Table

    titles = ("method", "models", "needs", "passes", "memory", "what it does")
    table = Table(*titles, box=None, pad_edge=False)
    steps = Table("transform", "more passes", "what it does", box=None, pad_edge=False)
    adapters = Table("adapter method", "what it does", box=None, pad_edge=False)
    for row in everything:
        mark = "experimental: " if row["experimental"] else ""
        if row["on"] == "factors":
            adapters.add_row(row["name"], mark + row["summary"])
            continue
        if row["kind"] == "transform":
            steps.add_row(row["name"], str(row["passes"] - 1), row["summary"])
            continue
        numbers = (str(row["passes"]), f"{row['memory_blocks']:.0f}")
        table.add_row(row["name"], row["models"], row["needs"], *numbers, mark + row["summary"])
    console = Console()
    console.print(table)
    console.print()
    console.print(steps)
    console.print()
    console.print(adapters)


def _paragraph(row: dict[str, Any]) -> list[str]:
    """What the list leaves out too, in a few lines."""
    lines = [f"{row['name']}  ({row['source']})", f"  {row['summary']}"]
    lines += [f"  when: {row['when']}"] if row["when"] else []
    lines += [f"  experimental: {row['experimental']}"] if row["experimental"] else []
    if row["on"] == "factors":
        return [*lines, "  models: LoRA adapters, as adapters"]
    cost = f"passes: up to {row['passes']}; memory: {_memory(row)}"
    return [*lines, f"  models: {row['models']}; needs: {row['needs']}; {cost}"]


def _memory(row: dict[str, Any]) -> str:
    """What a thread holds at once, in words."""
    from cermet.engine.describe import pieces_of

    return f"{row['memory_blocks']:.0f} float32 blocks{pieces_of(row['grain'])} a thread"


def _described(method: Any) -> dict[str, Any]:
    from cermet.core.cover import workspace_of
    from cermet.engine.describe import base_of, blocks_of, grain_of, needs_of, when_of

    least, most = method.models
    return {
        "name": method.name,
        "kind": method.kind,
        "summary": method.summary,
        "models": f"{least}" if least == most else f"{least}+",
        "base": base_of(method),
        "statistics": [
            {"name": n.name, "about": n.about, "per_model": n.per_model} for n in method.needs
        ],
        "needs": needs_of(method),
        "on": method.on,
        "grain": grain_of(method),
        "passes": method.passes,
        "workspace": workspace_of(method, max(2, least)),
        "memory_blocks": round(blocks_of(method), 1),
        "when": when_of(method),
        "experimental": method.experimental,
        "pipeline": list(method.composed),
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
    if method.on == "factors":
        typer.echo("\nIn a recipe whose models are LoRA adapters")
    elif method.kind == "transform":
        typer.echo("\nIn a pipeline")
        typer.echo(f"  passes      up to {described['passes'] - 1} more over the weights")
    else:
        typer.echo("\nIn a recipe")
        typer.echo(f"  models      {described['models']}, base model: {described['base']}")
        typer.echo(f"  passes      up to {described['passes']} over the weights")
    if method.on != "factors":
        typer.echo(f"  memory      {_memory(described)}")
    if method.composed:
        typer.echo(f"  pipeline    {' > '.join(method.composed)}")
    if method.experimental:
        typer.echo(f"  experimental: {method.experimental}")
    for need in method.needs:
        level = "a file for each model" if need.per_model else "a file for all models"
        typer.echo(f"  {need.name:<18}statistic, {level}: {need.about}")
    for p in described["parameters"]:
        kind = p["type"] + (", one for each model" if p["per_model"] else "")
        value = "required" if p["required"] else f"default {p['default']}"
        typer.echo(f"  {p['name']:<18}{kind}; {value}")
    for name, reason in method.accepts.items():
        typer.echo(f"  {name:<18}accepted, no effect: {reason}")
