"""`cermet inspect PATH`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cermet.cli.options import AsJson, Memory, Threads
from cermet.cli.records import json_of
from cermet.cli.sections import print_grid, print_sections
from cermet.core.brevity import brief

if TYPE_CHECKING:
    from rich.console import Console

    from cermet.analyse.adapter import Adapter
    from cermet.analyse.contents import Contents, RoleSummary
    from cermet.analyse.findings import Inspection, Made
    from cermet.analyse.vocabulary import Vocabulary

__all__ = ["inspect"]

_FILES = 3  # that are named


def inspect(
    path: Annotated[
        str, typer.Argument(help="A folder, a file, a hub name, model+adapter, or an adapter.")
    ],
    headers: Annotated[
        bool, typer.Option("--headers", help="Do not read the weights: an instant look.")
    ] = False,
    memory: Memory = "1GB",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Tell what a checkpoint is, and what is broken or dead in it."""
    from cermet import inspection
    from cermet.cli.progress import Bar
    from cermet.engine.memory import parse_size

    bar = Bar("reading")
    with bar:
        found = inspection.inspect(
            path,
            headers=headers,
            memory=parse_size(memory),
            threads=threads,
            started=bar.start,
            progress=bar.advance,
        )
    if as_json:
        typer.echo(json_of(found))
    else:
        _print(found)


def _print(found: Inspection) -> None:
    from rich.console import Console

    console = Console()

    def say(text: str = "") -> None:
        console.print(text, markup=False, highlight=False)

    say(_head(found))
    if found.contents is not None:
        say()
        _roles(console, found.contents)
    rows: list[tuple[str, str]] = []
    if found.contents is not None:
        rows += _facts(found.contents)
    if found.vocabulary is not None:
        rows += _vocabulary(found.vocabulary)
    if found.made is not None:
        rows += _made(found.made)
    if rows:
        say()
        print_grid(console, rows)
    if found.adapter is not None:
        say()
        print_grid(console, _adapter(found.adapter))
        if found.adapter.changes:
            say()
            _changes(console, found.adapter)
    say()
    for sentence in found.findings or (_fine(found),):
        say(f"! {sentence}" if found.findings else sentence)


def _head(found: Inspection) -> str:
    from rich.filesize import decimal

    if found.contents is None:
        assert found.adapter is not None
        own = found.adapter
        return f"{found.path}: LoRA adapter, {own.parameters:,} parameters, {decimal(own.bytes)}"
    c = found.contents
    kind = c.architecture or "a model without a named architecture"
    kind += f" ({c.model_type})" if c.model_type and c.model_type != c.architecture else ""
    kind = f"assembly, {kind}" if found.kind == "assembly" else kind
    files = f"{len(c.files)} file" + ("s" if len(c.files) != 1 else "")
    return (
        f"{found.path}: {kind}, {c.parameters:,} parameters in {c.tensors:,} tensors, "
        f"{decimal(c.bytes)} in {files}"
    )


def _roles(console: Console, contents: Contents) -> None:
    measured = any(role.norm is not None for role in contents.roles)
    titles = ["role", "tensors", "shape", "parameters", "share", "dtype"]
    titles += ["rms", "largest"] if measured else []
    layers = {s.prefix: f"{s.prefix}, {s.layers} layers" for s in contents.stacks}
    sections: dict[str, list[list[str]]] = {}
    for role in contents.roles:
        heading = layers.get(role.stack, "outside of layers" if layers else "")
        cells = _cells(role, contents.parameters)[: len(titles)]
        sections.setdefault(heading, []).append(cells)
    print_sections(console, titles, sections, left=(0, 2, 5))


def _cells(role: RoleSummary, total: int) -> list[str]:
    name = f"{role.role} bias" if role.bias else role.role
    shapes = ["x".join(map(str, shape)) or "scalar" for shape in role.shapes]
    shape = shapes[0] if len(shapes) == 1 else f"{shapes[0]} and {len(shapes) - 1} more"
    share = f"{role.parameters / total:.1%}" if total and role.role != "buffer" else ""
    sizes = ["" if v is None else f"{v:.3g}" for v in (role.rms, role.largest)]
    dtypes = ", ".join(role.dtypes)
    return [f"  {name}", f"{role.tensors:,}", shape, brief(role.parameters), share, dtypes, *sizes]


def _facts(contents: Contents) -> list[tuple[str, str]]:
    from rich.filesize import decimal

    rows = []
    if contents.facts:
        facts = [f"{name} {_number(value)}" for name, value in contents.facts.items()]
        rows.append(("config", ", ".join(facts)))
    if len(contents.dtypes) > 1:
        listed = [f"{d.dtype} {d.tensors:,} ({decimal(d.bytes)})" for d in contents.dtypes]
        rows.append(("dtypes", ", ".join(listed)))
    if contents.quantisation:
        rows.append(("quantised", contents.quantisation))
    for tie in contents.ties:
        first, *others = tie.names
        stored = "stored under each name" if len(tie.stored) > 1 else f"stored as {tie.stored[0]}"
        rows.append(("tied", f"{first} = {' = '.join(others)}, {stored}"))
    named = [f"{f.name} ({decimal(f.bytes)})" for f in contents.files[:_FILES]]
    more = len(contents.files) - _FILES
    rows.append(("files", ", ".join(named) + (f" and {more} more" if more > 0 else "")))
    return rows


def _number(value: int | float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{int(value):,}" if value == int(value) else f"{value:g}"


def _vocabulary(found: Vocabulary) -> list[tuple[str, str]]:
    if found.kind is None:
        held = f"; the embedding has {found.rows:,} rows" if found.rows else ""
        return [("vocabulary", f"{(found.problem or '').rstrip('.')}{held}")]
    text = f"{found.kind}, {found.tokens:,} tokens, {found.added:,} of them added"
    if found.rows is not None and found.size is not None:
        spare = found.rows - found.size
        text += f"; embedding of {found.rows:,} rows"
        text += f", {spare:,} more than there are ids" if spare > 0 else ""
    rows = [("vocabulary", text)]
    if found.special:
        rows.append(("special", ", ".join(f"{k} {v}" for k, v in found.special.items())))
    rows.append(("chat template", "yes" if found.chat_template else "no"))
    return rows


def _made(made: Made) -> list[tuple[str, str]]:
    from rich.filesize import decimal

    seed = "" if made.seed is None else f", seed {made.seed}"
    by = f"Cermet {made.version}" if made.version else "Cermet"
    rows = [("made by", f"{by}, {made.how} of {', '.join(made.models)}{seed}")]
    if made.experts:
        rows.append(("restores", f"{', '.join(made.experts)} ({decimal(made.parts_bytes)})"))
    return rows


def _adapter(found: Adapter) -> list[tuple[str, str]]:
    ranks = ", ".join(map(str, found.ranks)) or "-"
    alphas, scales = (
        ", ".join(f"{v:g}" for v in values) for values in (found.alphas, found.scales)
    )
    kind = " ".join(n for n, on in (("DoRA", found.dora), ("rank-stabilised", found.rslora)) if on)
    modules = ", ".join(f"{name} ({count})" for name, count in found.modules.items())
    rows = [
        ("adapter", f"{found.folder}, {kind or 'LoRA'}, {found.parameters:,} parameters, "
                    f"{', '.join(found.dtypes)}"),
        ("rank", f"{ranks}; alpha {alphas}; B @ A is multiplied by {scales}"),
        ("modules", modules or "-"),
        ("trained on", found.base or "not said"),
    ]  # fmt: skip
    if found.replaced:
        rows.append(("whole", f"{found.replaced} tensors take the place of the base's"))
    return rows


def _changes(console: Console, found: Adapter) -> None:
    relative = any(change.relative is not None for change in found.changes)
    titles = ["changes", "tensors", "parameters", "norm", *(["of the base's"] if relative else [])]
    sections: dict[str, list[list[str]]] = {}
    for c in found.changes:
        share = "-" if c.relative is None else f"{c.relative:.2%}"
        cells = [f"  {c.role}", f"{c.tensors:,}", brief(c.parameters), f"{c.norm:.3g}", share]
        sections.setdefault(c.stack, []).append(cells[: len(titles)])
    print_sections(console, titles, sections)


def _fine(found: Inspection) -> str:
    if found.adapter is not None and found.contents is None:
        return f"Write BASE+{found.path} wherever a model is named to use it."
    if not found.read:
        return "Headers are in order; the weights were not read."
    return "Every number is finite; nothing is dead or doubled."
