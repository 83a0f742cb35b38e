"""From records to rows: what a bench has found, without models or tasks at hand."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cermet.proving.intervals import seeds_interval

__all__ = ["NotRun", "Row", "Table", "across", "tables"]


@dataclass(frozen=True)
class Row:
    """One line of the table: means over its seeds.

    Attributes
    ----------
    kind: reference, merge, assembly (its experts restored), codec or adapter.
    chosen: the coefficient that validation chose, one for each seed; empty where there is none.
    at_end: whether one of these stands at an end of the grid, so that a wider one may be better.
    mean: over the tasks that have an expert, in their own metric; None where they have several.
    normalised: the mean share of the experts; low, high: its 95 % interval over `over`, seeds or
        examples. worst: the share in the task where it is least.
    out_of_domain: the mean over tasks without an expert. flips: the share of examples that the
        experts had right and this has wrong, over the tasks where an example is right or wrong;
        None where there are none.
    seconds: of making it. peak_bytes: that making it took. bytes: of all that runs it.
    tasks: the value of each task. shares: of the experts, by task.
    """

    name: str
    kind: str
    experts: int
    seeds: tuple[int, ...]
    knob: str | None
    chosen: tuple[float, ...]
    at_end: bool
    mean: float | None
    normalised: float
    low: float
    high: float
    over: str
    worst: float
    out_of_domain: float | None
    flips: float | None
    seconds: float
    peak_bytes: int
    bytes: int
    tasks: Mapping[str, float]
    shares: Mapping[str, float]


@dataclass(frozen=True)
class NotRun:
    """What was not measured, and why; seeds on which it was not."""

    name: str
    kind: str
    seeds: tuple[int, ...]
    reason: str


@dataclass(frozen=True)
class Table:
    """All rows of a pool of so many experts, best first, and what was not run.

    metrics: of the tasks that have an expert. points: of the grid, the most that a method had.
    """

    pool: str
    experts: int
    seeds: tuple[int, ...]
    metrics: tuple[str, ...]
    points: int
    rows: tuple[Row, ...]
    not_run: tuple[NotRun, ...]

    def row(self, name: str) -> Row:
        """The row of that name; KeyError where there is none."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def record(self) -> dict[str, Any]:
        """Everything as plain data, for JSON."""
        return {"format": 1, **asdict(self)}


def tables(lines: Iterable[Mapping[str, Any]]) -> list[Table]:
    """The tables of some records, one for each number of experts, the largest first."""
    tested = [line for line in lines if line["split"] == "test"]
    counts = sorted({line["experts"] for line in tested}, reverse=True)
    return [_table([line for line in tested if line["experts"] == count]) for count in counts]


def across(lines: Iterable[Mapping[str, Any]]) -> dict[str, list[Row]]:
    """Rows of the same name on pools of growing size, over the seeds that all of these have."""
    by_name = dict[str, dict[int, list[Mapping[str, Any]]]]()
    for line in lines:
        told = line["kind"] != "reference" or line["name"] in ("base", "multi-task")
        if told and line["split"] == "test" and "not_run" not in line:
            sizes = by_name.setdefault(line["name"], {})
            sizes.setdefault(line["experts"], []).append(line)
    found = dict[str, list[Row]]()
    for name, sizes in by_name.items():
        common = set.intersection(*({x["seed"] for x in group} for group in sizes.values()))
        if len(sizes) > 1 and common:
            kept = ([x for x in sizes[n] if x["seed"] in common] for n in sorted(sizes))
            found[name] = [_row(group) for group in kept]
    return found


def _table(lines: Sequence[Mapping[str, Any]]) -> Table:
    grouped = dict[tuple[str, str], list[Mapping[str, Any]]]()
    for line in lines:
        grouped.setdefault((line["kind"], line["name"]), []).append(line)
    measured = [[x for x in group if "not_run" not in x] for group in grouped.values()]
    rows = sorted((_row(group) for group in measured if group), key=_rank)
    missing = [[x for x in group if "not_run" in x] for group in grouped.values()]
    told = [x for group in measured for x in group]
    own = [t["metric"] for x in told for t in x["tasks"].values() if "normalised" in t]
    return Table(
        pool=str(lines[0]["pool"]),
        experts=int(lines[0]["experts"]),
        seeds=tuple(sorted({int(line["seed"]) for line in told})),
        metrics=tuple(sorted(set(own))),
        points=max((len(x["grid"]) for x in told), default=0),
        rows=tuple(rows),
        not_run=tuple(sorted((_not_run(g) for g in missing if g), key=lambda n: n.name)),
    )


def _rank(row: Row) -> tuple[float, str]:
    return (-row.normalised if math.isfinite(row.normalised) else math.inf, row.name)


def _row(group: Sequence[Mapping[str, Any]]) -> Row:
    ordered = sorted(group, key=lambda line: int(line["seed"]))
    first, several = ordered[0], len(ordered) > 1
    shares = [float(line["normalised"]) for line in ordered]
    low, high = seeds_interval(shares) if several else (first["low"], first["high"])
    knob = first["knob"]
    chosen = () if knob is None else tuple(float(line["point"][knob]) for line in ordered)
    own = [name for name, task in first["tasks"].items() if "normalised" in task]
    return Row(
        name=str(first["name"]),
        kind=str(first["kind"]),
        experts=int(first["experts"]),
        seeds=tuple(int(line["seed"]) for line in ordered),
        knob=knob,
        chosen=chosen,
        at_end=any(
            line["point"][knob] in (line["grid"][0], line["grid"][-1])
            for line in ordered
            if len(line["grid"]) > 1
        ),
        mean=_mean([line["mean"] for line in ordered]),
        normalised=math.fsum(shares) / len(shares),
        low=float(low),
        high=float(high),
        over="seeds" if several else "examples",
        worst=_sure(line["worst"] for line in ordered),
        out_of_domain=_mean([line["out_of_domain"] for line in ordered]),
        flips=_mean([_flips(line) for line in ordered]),
        seconds=_sure(line["seconds"] for line in ordered),
        peak_bytes=max(int(line["peak_bytes"]) for line in ordered),
        bytes=round(_sure(line["bytes"] for line in ordered)),
        tasks={n: _sure(x["tasks"][n]["value"] for x in ordered) for n in first["tasks"]},
        shares={n: _sure(x["tasks"][n]["normalised"] for x in ordered) for n in own},
    )


def _flips(line: Mapping[str, Any]) -> float | None:
    """Of tasks where an example is right or wrong: a text that takes more bits is neither."""
    told = [t for t in line["tasks"].values() if t["metric"] != "bits_per_character"]
    known = [t["flips"] for t in told if "flips" in t]
    return math.fsum(known) / len(known) if known else None


def _sure(values: Iterable[float]) -> float:
    known = [float(value) for value in values]
    return math.fsum(known) / len(known)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if len(known) == len(values) else None


def _not_run(group: Sequence[Mapping[str, Any]]) -> NotRun:
    seeds = tuple(sorted(int(line["seed"]) for line in group))
    return NotRun(group[0]["name"], group[0]["kind"], seeds, group[0]["not_run"])
