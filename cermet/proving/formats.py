"""A table as text, Markdown, CSV and JSON; the numbers are the same in all of them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cermet.core.brevity import brief
from cermet.core.errors import DiskError
from cermet.proving.table import Row, Table

__all__ = ["COLUMNS", "caption", "cells", "columns", "markdown", "write_tables"]


def _chosen(row: Row) -> str:
    if row.knob is None:
        return ""
    values = [f"{value:g}" for value in row.chosen]
    told = values[0] if len(set(values)) == 1 else "/".join(values)
    return f"{row.knob} {told}{'*' if row.at_end else ''}"


def _value(row: Row, value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


COLUMNS: Mapping[str, Callable[[Row], str]] = {
    "method": lambda row: row.name,
    "kind": lambda row: row.kind,
    "chosen": _chosen,
    "of the experts": lambda row: f"{row.normalised:.1%}",
    "seeds": lambda row: str(len(row.seeds)),
    "95 % interval": lambda row: f"{100 * row.low:.1f}-{100 * row.high:.1f}",
    "worst task": lambda row: f"{row.worst:.1%}",
    "mean": lambda row: _value(row, row.mean),
    "other tasks": lambda row: _value(row, row.out_of_domain),
    "flips": lambda row: "" if row.flips is None else f"{row.flips:.1%}",
    "seconds": lambda row: "" if row.kind == "reference" else f"{row.seconds:.2f}",
    "peak": lambda row: brief(row.peak_bytes, "B") if row.peak_bytes else "",
    "bytes": lambda row: brief(row.bytes, "B"),
}
"""The columns, and what stands in each."""


def columns(table: Table) -> list[str]:
    """The names of the columns that say something of this table.

    The seeds of each row only where some rows have fewer than others.
    """
    alike = len({len(row.seeds) for row in table.rows}) < 2
    return [
        name
        for name, cell in COLUMNS.items()
        if any(cell(row) for row in table.rows) and not (alike and name == "seeds")
    ]


def cells(table: Table) -> list[list[str]]:
    """The rows as text, under `columns`."""
    names = columns(table)
    return [[COLUMNS[name](row) for name in names] for row in table.rows]


def caption(table: Table) -> str:
    """In a few sentences, what the numbers are."""
    seeds, metrics = len(table.seeds), " and ".join(m.replace("_", " ") for m in table.metrics)
    over = (
        f"over {seeds} seeds (of the examples where a row has one seed)"
        if seeds > 1
        else "of the examples"
    )
    ends = " * an end of the grid." if any(row.at_end for row in table.rows) else ""
    return (
        f"Pool {table.pool}, {table.experts} experts, {seeds} seed{'s' if seeds > 1 else ''}. "
        f"Measured on test in {metrics}, as a share of each task's own expert; the interval is "
        f"{over}. Coefficients were chosen on validation, of {table.points} points a method.{ends}"
    )


def markdown(table: Table) -> str:
    """The table, its caption, and what was not run."""
    names = columns(table)
    lines = [caption(table), "", _line(names), _line(["---"] * len(names))]
    lines += [_line(row) for row in cells(table)]
    if table.not_run:
        lines += ["", "Not run:", ""]
        lines += [f"- `{missing.name}`: {missing.reason}" for missing in table.not_run]
    return "\n".join(lines) + "\n"


def _line(texts: Sequence[str]) -> str:
    return f"| {' | '.join(text.replace('|', '&#124;') for text in texts)} |"


def _csv(table: Table) -> str:
    """Every number in full; a task's value and its share stand in columns of their own."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    tasks = list(dict.fromkeys(name for row in table.rows for name in row.tasks))
    own = list(dict.fromkeys(name for row in table.rows for name in row.shares))
    plain = ["name", "kind", "experts", "knob", "at_end", "mean", "normalised", "low", "high",
             "over", "worst", "out_of_domain", "flips", "seconds", "peak_bytes",
             "bytes"]  # fmt: skip
    writer.writerow([
        *plain, "seeds", "chosen", *(f"value:{t}" for t in tasks), *(f"share:{t}" for t in own),
    ])  # fmt: skip
    for row in table.rows:
        writer.writerow([
            *(getattr(row, name) for name in plain),
            " ".join(map(str, row.seeds)), " ".join(f"{v:g}" for v in row.chosen),
            *(row.tasks.get(t) for t in tasks), *(row.shares.get(t) for t in own),
        ])  # fmt: skip
    return stream.getvalue()


def write_tables(found: Sequence[Table], folder: Path) -> list[Path]:
    """Write table.csv, table.md and table.json; DiskError where a file cannot be written.

    The CSV file is of the whole pool, the others also of the pools of fewer experts.
    """
    content = {
        "table.csv": _csv(found[0]),
        "table.md": "\n".join(markdown(table) for table in found),
        "table.json": json.dumps([table.record() for table in found], indent=2) + "\n",
    }
    written = []
    for name, text in content.items():
        try:
            (folder / name).write_text(text, "utf-8")
        except OSError as error:
            raise DiskError(f"'{folder / name}': {error.strerror or error}.") from error
        written.append(folder / name)
    return written
