"""Seconds of one matrix, from records: for the page of a method, and of all for the index."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.records import Record, latest, load
from bench.table import markdown

__all__ = ["seconds_of", "table"]


def _records(folder: Path) -> list[Record]:
    """The last of each, by machine, method and size."""
    keys = ("method", "shape", "spectrum", "experts", "device")
    found = latest(load(folder, "spectral"), *keys)
    order = {"flat": 2}
    return sorted(
        found,
        key=lambda r: (
            r["device"] != "cpu", r["device"], r["method"], _numel(r),
            order.get(r["spectrum"], 3 if r["spectrum"].startswith("lora") else 1),
        ),
    )  # fmt: skip


def _numel(record: Record) -> int:
    rows, columns = map(int, record["shape"].split("x"))
    return rows * columns


def table(folder: Path) -> str:
    """Every method beside its authors' form, a table for each machine; empty without records."""
    head = ["method", "matrix", "spectrum", "experts", "authors' form s", "Cermet s"]
    head += ["times faster", "error, theirs", "error, ours", "our time"]
    return "\n".join(
        f"{_where(found)}\n\n" + markdown(head, [_row(record) for record in found])
        for found in _by_machine(_records(folder))
    )


def seconds_of(method: str, folder: Path) -> str:
    """What one matrix takes a method, a table for each machine; empty where not measured."""
    head = ["matrix", "spectrum", "experts", "seconds"]
    records = [record for record in _records(folder) if record["method"] == method]
    return "\n".join(
        f"{_where(found)}\n\n"
        + markdown(
            head,
            [[r["shape"], _spectrum(r), str(r["experts"]), f"{r['ours']:.3f}"] for r in found],
        )
        for found in _by_machine(records)
    )


def _by_machine(records: Sequence[Record]) -> list[list[Record]]:
    found: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        machine = record["device"], record["machine"]["processor"]
        found.setdefault(machine, []).append(record)
    return list(found.values())


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
        ", ".join(f"{name} {share:.0%}" for name, share in record.get("profile", {}).items()),
    ]


def _spectrum(record: Record) -> str:
    word = str(record["spectrum"])
    if word.startswith("lora-"):
        return f"adapters of rank {word.removeprefix('lora-')}"
    return word if word == "flat" else f"rank^-{word}"


def _where(records: Sequence[Record]) -> str:
    last = records[-1]
    dates = sorted({record["date"] for record in records})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    gpu = last["device"] != "cpu"
    where = last["device"] if gpu else f"one thread of {last['machine']['processor']}"
    option = " --device cuda" if gpu else ""
    bench = "adapters" if all(r["method"].startswith("lora_") for r in records) else "spectral"
    return (
        f"Medians on {where}, {when}, torch {last['versions']['torch']}; "
        f"`python -m bench {bench}{option} --records` measures them."
    )
