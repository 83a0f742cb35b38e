"""Seconds of one matrix, from records: for the page of a method, and of all for the index."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.records import Record, latest, load
from bench.table import markdown

__all__ = ["seconds_of", "table"]


def _records(folder: Path) -> list[Record]:
    found = latest(load(folder, "spectral"), "method", "shape", "spectrum", "experts")
    return sorted(found, key=lambda r: (r["method"], _numel(r), r["spectrum"] != "flat"))


def _numel(record: Record) -> int:
    rows, columns = map(int, record["shape"].split("x"))
    return rows * columns


def table(folder: Path) -> str:
    """Every method beside its authors' form; empty where nothing has been measured."""
    records = _records(folder)
    if not records:
        return ""
    head = ["method", "matrix", "spectrum", "experts", "authors' form s", "Cermet s"]
    head += ["times faster", "error, theirs", "error, ours"]
    return f"{_where(records)}\n\n" + markdown(head, [_row(record) for record in records])


def seconds_of(method: str, folder: Path) -> str:
    """What one matrix takes a method, as a table; empty where it has not been measured."""
    records = [record for record in _records(folder) if record["method"] == method]
    if not records:
        return ""
    rows = [[r["shape"], _spectrum(r), str(r["experts"]), f"{r['ours']:.3f}"] for r in records]
    return f"{_where(records)}\n\n" + markdown(["matrix", "spectrum", "experts", "seconds"], rows)


def _row(record: Record) -> list[str]:
    theirs, ours, errors = record["authors"], record["ours"], record["errors"]
    return [
        record["method"],
        record["shape"],
        _spectrum(record),
        str(record["experts"]),
        "" if theirs is None else f"{theirs:.2f}",
        f"{ours:.3f}",
        "" if theirs is None else f"{theirs / ours:.1f}",
        *(["", ""] if errors is None else [f"{error:.1e}" for error in errors]),
    ]


def _spectrum(record: Record) -> str:
    word = record["spectrum"]
    return word if word == "flat" else f"rank^-{word}"


def _where(records: Sequence[Record]) -> str:
    last = records[-1]
    dates = sorted({record["date"] for record in records})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return (
        f"Medians on one thread of {last['machine']['processor']}, {when}, torch "
        f"{last['versions']['torch']}; `python -m bench spectral --records` measures them."
    )
