"""What the kept records say to a claim: differences in shares, one for each task.

Most claims compare two rows of one pool, and are looked for on every pool of the page. Some compare
one row on several pools, and one has records of its own (`python -m bench shadow`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from bench.pools import POOLS, found_in, lines_of
from bench.records import latest, load
from cermet.evaluate.statistics import normalised
from cermet.proving.table import Row, Table, across, tables
from cermet.proving.trial import APART

__all__ = ["FEWEST", "Find", "Finding", "grafted", "keeps", "more_in", "over", "shrinks"]

FEWEST = 3  # tasks: two differences have an interval that says nothing


@dataclass(frozen=True)
class Finding:
    """One claim on one pool: what was compared, and the differences in shares by task."""

    pool: str
    compared: str
    differences: tuple[float, ...]


Find = Callable[[Path], list[Finding]]
"""From the folder of the records to what they say, of as few tasks as there are."""


def over(one: str, other: str) -> Find:
    """The first row less the second, with all experts, over the seeds that both have."""

    def find(folder: Path) -> list[Finding]:
        told = []
        for pool in POOLS:
            rows = _pair(folder, pool, one, other)
            if rows is not None:
                first, second = rows
                text = f"{one} {_share(first)}, {other} {_share(second)}"
                told.append(Finding(pool, text, _differences(first, second)))
        return told

    return find


def _pair(folder: Path, pool: str, one: str, other: str) -> tuple[Row, Row] | None:
    """Two rows of a pool over the seeds that both were measured on; None where there are none."""
    lines = [line for line in lines_of(folder, pool) if "not_run" not in line]
    most = max((line["experts"] for line in lines), default=0)
    lines = [x for x in lines if x["experts"] == most and x["name"] in (one, other)]
    seeds = [{x["seed"] for x in lines if x["name"] == name} for name in (one, other)]
    common = seeds[0] & seeds[1]
    if not common:
        return None
    rows = _rows(tables(x for x in lines if x["seed"] in common)[0])
    return rows[one], rows[other]


def keeps(*names: str) -> Find:
    """Rows less the experts themselves, whose share is 1."""

    def find(folder: Path) -> list[Finding]:
        told = []
        for pool in POOLS:
            rows = _rows(found[0]) if (found := found_in(folder, pool)) else {}
            for name in names:
                if name in rows:
                    lost = tuple(share - 1 for share in rows[name].shares.values())
                    told.append(Finding(pool, f"{name} {_share(rows[name])}", lost))
        return told

    return find


def shrinks(*names: str) -> Find:
    """Few experts, three at least, less many, on the tasks and over the seeds that both have."""

    def find(folder: Path) -> list[Finding]:
        told = []
        for pool in POOLS:
            sizes = across(x for x in lines_of(folder, pool) if x["experts"] >= FEWEST)
            for name in names:
                if name in sizes:
                    few, many = sizes[name][0], sizes[name][-1]
                    text = (
                        f"{name}: {_share(few)} of {few.experts}, {_share(many)} of {many.experts}"
                    )
                    told.append(Finding(pool, text, _differences(few, many)))
        return told

    return find


def more_in(pools: Sequence[str], *names: str) -> Find:
    """Rows on the last of these pools less the same on the first, of those that have records.

    Each pool is measured by its own experts, so that better ones are no advantage. In bits a base
    has a share of them too, and a better base a larger one; so every row is told a second time as
    the part that it goes of the way from its own base to its own experts. Only the seeds count
    that all of them have, and there is no finding where they have other tasks.
    """

    def find(folder: Path) -> list[Finding]:
        known = _of_the_same_seeds(folder, pools)
        if len(known) < 2 or len({frozenset(rows[APART].shares) for rows in known.values()}) > 1:
            return []
        told = []
        for about, measure in (("", _shares), (", of the way from base to expert", _ways)):
            for name in names:
                if all(name in rows for rows in known.values()):
                    each = [measure(rows, name) for rows in known.values()]
                    means = ", ".join(f"{fmean(values.values()):.1%}" for values in each)
                    gained = tuple(each[-1][task] - value for task, value in each[0].items())
                    told.append(Finding(", ".join(known), f"{name}{about}: {means}", gained))
        return told

    return find


def _of_the_same_seeds(folder: Path, pools: Sequence[str]) -> dict[str, dict[str, Row]]:
    """The rows of the pools that have records, with all experts; none where no seed is in all."""
    lines = {pool: found for pool in pools if (found := lines_of(folder, pool))}
    seeds = [{line["seed"] for line in found} for found in lines.values()]
    common = set[int]().union(*seeds).intersection(*seeds)
    if not common:
        return {}
    return {
        pool: _rows(tables(line for line in found if line["seed"] in common)[0])
        for pool, found in lines.items()
    }


def _shares(rows: Mapping[str, Row], name: str) -> Mapping[str, float]:
    return rows[name].shares


def _ways(rows: Mapping[str, Row], name: str) -> Mapping[str, float]:
    """0 is the base, 1 the expert of the task, below 0 worse than the base."""
    base, own = rows["base"].tasks, rows[APART].tasks
    return {
        task: (rows[name].tasks[task] - base[task]) / (own[task] - base[task])
        for task in rows[name].shares
    }


def grafted(*names: str) -> Find:
    """Grafts less the tuned model tuned directly, one difference for each domain.

    Both are told as shares of the tuned model itself, on the domain's own tasks and on all others:
    above 1 is what it has gained, below 1 what it has lost.
    """

    def find(folder: Path) -> list[Finding]:
        told = []
        for record in latest(load(folder, "shadow"), "pool"):
            for own in (True, False):
                direct = _of_the_tuned(record, "direct", own)
                for name in names:
                    graft = _of_the_tuned(record, name, own)
                    text = (
                        f"{'own domain' if own else 'other tasks'}: {name} {fmean(graft):.1%}, "
                        f"directly {fmean(direct):.1%} of the tuned model, which lies "
                        f"{record['apart']:.0%} from its base"
                    )
                    gained = tuple(a - b for a, b in zip(graft, direct, strict=True))
                    told.append(Finding(record["pool"], text, gained))
        return told

    return find


def _of_the_tuned(record: Mapping[str, Any], way: str, own: bool) -> list[float]:
    """For each domain the mean share of the tuned model on its own tasks, or on those of others."""
    return [
        fmean(
            normalised(values[way][task], record["tuned"][task], about["metric"])
            for task, about in record["tasks"].items()
            if (about["expert"] == domain) == own
        )
        for domain, values in record["domains"].items()
    ]


def _rows(table: Table) -> dict[str, Row]:
    return {row.name: row for row in table.rows}


def _share(row: Row) -> str:
    return f"{row.normalised:.1%}"


def _differences(one: Row, other: Row) -> tuple[float, ...]:
    return tuple(one.shares[t] - other.shares[t] for t in one.shares if t in other.shares)
