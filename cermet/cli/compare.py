"""`cermet compare A B [C ...]`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cermet.cli.options import AsJson, Memory, Threads
from cermet.cli.records import json_of
from cermet.cli.sections import print_grid, print_sections
from cermet.core.brevity import brief

if TYPE_CHECKING:
    from rich.console import Console

    from cermet.analyse.comparison import Comparison
    from cermet.analyse.fitness import MethodFit
    from cermet.analyse.relations import Group

__all__ = ["compare"]

_PLAIN = re.compile(r"[A-Za-z/.~][\w./~+@-]*")  # a path that YAML reads as it is
_COLUMNS = 3  # experts that have columns of their own


def compare(
    models: Annotated[
        list[str], typer.Argument(help="Models, as recipes name them; the base first.")
    ],
    base: Annotated[
        str | None, typer.Option(help="The model that all were tuned from; the first by default.")
    ] = None,
    subspaces: Annotated[
        int, typer.Option(min=0, help="Matrices whose deltas' subspaces are compared; 0 for none.")
    ] = 12,
    memory: Memory = "1GB",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Tell whether models can be combined, and how."""
    from cermet import inspection
    from cermet.cli.progress import Bar
    from cermet.engine.memory import parse_size

    bar = Bar("comparing")
    with bar:
        found = inspection.compare(
            *models,
            base=base,
            subspaces=subspaces,
            memory=parse_size(memory),
            threads=threads,
            started=bar.start,
            progress=bar.advance,
        )
    if as_json:
        typer.echo(json_of(found))
    else:
        _print(found)


def _print(found: Comparison) -> None:
    from rich.console import Console

    console = Console()
    _models(console, found)
    console.print()
    for sentence in found.findings:
        console.print(sentence, markup=False, highlight=False)
    if found.verdict == "unrelated":
        console.print()
        _weights(console, found)
    elif found.deltas is not None and found.verdict != "equal":
        console.print()
        _deltas(console, found)
        console.print()
        _between(console, found)
        _groups(console, found)
    console.print()
    print_grid(console, _methods(found.methods))
    if found.advice:
        console.print()
    for sentence in found.advice:
        console.print(sentence, markup=False, highlight=False)
    if found.recipe is not None:
        console.print()
        typer.echo("\n".join(_yaml(found.recipe)))
        console.print(
            "\nSaved as recipe.yaml, it is run by: cermet merge recipe.yaml merged",
            markup=False,
            highlight=False,
        )


def _models(console: Console, found: Comparison) -> None:
    rows = [
        [
            m.name,
            m.architecture or m.model_type or "-",
            str(m.layers),
            brief(m.parameters),
            ", ".join(m.dtypes),
            "base" if m is found.models[0] else "",
        ]
        for m in found.models
    ]
    titles = ["model", "architecture", "layers", "parameters", "dtype", ""]
    print_sections(console, titles, {"": rows}, left=(0, 1, 4, 5))


def _deltas(console: Console, found: Comparison) -> None:
    rows = [
        [
            e.model,
            f"{e.norm:.3g}",
            _share(e.relative, 2),
            _share(e.changed),
            f"{e.unchanged:,} of {e.tensors:,}",
            _share(e.kept),
            "-" if not e.looked_at else "> 32" if e.rank is None else str(e.rank),
        ]
        for e in found.experts
    ]
    titles = [
        "delta of",
        "norm",
        "of the base",
        "changed",
        "equal tensors",
        "kept in the sum",
        "rank",
    ]
    print_sections(console, titles, {"": rows})


def _between(console: Console, found: Comparison) -> None:
    if not found.between:
        return
    rows = [
        [
            f"{b.first}, {b.second}",
            _cosine(b.cosine),
            _share(b.both),
            _share(b.conflict),
            _overlap(b.left, b.chance_left),
            _overlap(b.right, b.chance_right),
        ]
        for b in found.between
    ]
    titles = ["deltas of", "cosine", "both changed", "opposite signs", "outputs", "inputs"]
    print_sections(console, titles, {"": rows})
    said = "opposite signs: of what both changed; half by chance."
    if found.spaces:
        most, count = max(s.directions for s in found.spaces), len(found.spaces)
        said += (
            f" outputs, inputs: overlap of the {most} leading directions, in {count} "
            f"{'matrices' if count > 1 else 'matrix'}; in brackets, by chance."
        )
    console.print(said, style="dim", highlight=False)
    console.print()


def _weights(console: Console, found: Comparison) -> None:
    """The cosines of the weights with those of the base, by role."""
    names = [m.name for m in found.models[1:]]
    titles = ["cosine of weights", "parameters", *names]
    rows = [
        [g.name, brief(g.parameters), *(_cosine(c) for c in g.weights[: len(names)])]
        for g in found.roles
    ]
    print_sections(console, titles, {"": rows})


def _overlap(share: float | None, chance: float | None) -> str:
    return "-" if share is None else f"{share:.2f} ({chance:.2f})"


def _groups(console: Console, found: Comparison) -> None:
    names = [e.model for e in found.experts]
    alone = len(names) <= _COLUMNS
    columns = names if alone else [f"mean of {len(names)}"]
    titles = ["delta / base", "parameters", *columns]
    several = len(names) > 1
    titles += ["cosine", "opposite signs"] if several else []

    def row(group: Group) -> list[str]:
        sizes = group.relative
        if not alone:
            sizes = (_mean(group.relative),)
        cells = [f"  {group.name}", brief(group.parameters), *(_share(s, 2) for s in sizes)]
        return cells + ([_cosine(_mean(group.cosines)), _share(group.conflict)] if several else [])

    sections = {"by role": [row(g) for g in found.roles]}
    if found.layers:
        sections["by depth"] = [row(g) for g in found.layers]
    assert found.deltas is not None
    sections["in all"] = [row(replace(found.deltas, name="all tensors"))]
    print_sections(console, titles, sections)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _share(value: float | None, digits: int = 0) -> str:
    if value is None:
        return "-"
    return f"{value:.{digits}%}" if value < 10 else f"{value:,.0f} x"


def _cosine(value: float | None) -> str:
    return "-" if value is None else f"{round(value, 3) + 0.0:.3f}"  # no negative zero


def _methods(methods: Sequence[MethodFit]) -> list[tuple[str, str]]:
    """The methods that apply, and those that do not by their reason."""
    rows = []
    fitting = [f"{m.name} (experimental)" if m.experimental else m.name
               for m in methods if m.applies]  # fmt: skip
    if fitting:
        rows.append(("methods that apply", ", ".join(fitting)))
    reasons: dict[str, list[str]] = {}
    for m in methods:
        if not m.applies:
            reasons.setdefault(m.reason, []).append(m.name)
    for reason, names in reasons.items():
        listed = "none applies" if not fitting and len(reasons) == 1 else ", ".join(names)
        rows.append(("and not" if fitting else "methods", f"{listed}: {reason}"))
    return rows


def _yaml(recipe: Mapping[str, Any]) -> list[str]:
    """A recipe as the documentation writes one."""
    lines = []
    for key, value in recipe.items():
        if key == "models":
            lines.append("models:")
            lines += [f"  - {_flow(model)}" for model in value]
        else:
            lines.append(f"{key}: {_flow(value)}")
    return lines


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k}: {_flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) else json.dumps(value)
    return f"{value:g}" if isinstance(value, float) else str(value)
