"""What papers claim of merging, and what the records of our pools say to it.

A claim compares two rows, or holds one against a limit, on every pool that has them. Its verdict
is of a paired interval: the differences on the tasks, one for each task, by Student's
distribution at 95 %. It holds where the whole interval is on the claim's side, does not hold here
where it is on the other, and where it is on both, or there are fewer than three tasks, or less than
a twentieth of a point between the rows, we cannot tell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.pools import POOLS, found_in
from bench.table import markdown
from cermet.proving.intervals import seeds_interval
from cermet.proving.table import Row, Table

__all__ = ["CLAIMS", "Claim", "Finding", "literature", "verdict"]


_FEWEST = 3  # tasks: two differences have an interval that says nothing
_NOTHING = 0.0005  # a difference below this is none: a number of another run of the same method


@dataclass(frozen=True)
class Finding:
    """One claim on one pool: what was compared, and the differences in shares by task."""

    pool: str
    compared: str
    differences: tuple[float, ...]


@dataclass(frozen=True)
class Claim:
    """A claim, where it is from, and how it is looked for in the tables of a pool.

    slack: how far below 0 a difference may be for the claim to hold.
    """

    text: str
    source: str
    find: Callable[[Sequence[Table]], list[tuple[str, tuple[float, ...]]]]
    slack: float = 0.0


def over(one: str, other: str) -> Callable[[Sequence[Table]], list[tuple[str, tuple[float, ...]]]]:
    """The first row less the second, with all experts."""

    def find(found: Sequence[Table]) -> list[tuple[str, tuple[float, ...]]]:
        rows = {row.name: row for row in found[0].rows}
        if one not in rows or other not in rows:
            return []
        return [(f"{one} {_share(rows[one])}, {other} {_share(rows[other])}",
                 _differences(rows[one], rows[other]))]  # fmt: skip

    return find


def keeps(*names: str) -> Callable[[Sequence[Table]], list[tuple[str, tuple[float, ...]]]]:
    """Rows less the experts themselves, whose share is 1."""

    def find(found: Sequence[Table]) -> list[tuple[str, tuple[float, ...]]]:
        rows = {row.name: row for row in found[0].rows}
        return [
            (f"{name} {_share(rows[name])}", tuple(s - 1 for s in rows[name].shares.values()))
            for name in names
            if name in rows
        ]

    return find


def shrinks(*names: str) -> Callable[[Sequence[Table]], list[tuple[str, tuple[float, ...]]]]:
    """Few experts, three at least, less many, on the tasks that both have."""

    def find(found: Sequence[Table]) -> list[tuple[str, tuple[float, ...]]]:
        ordered = sorted(
            (table for table in found if table.experts >= _FEWEST), key=lambda table: table.experts
        )
        if not ordered:
            return []
        few, many = ordered[0], ordered[-1]
        told = []
        for name in names if few.experts < many.experts else ():
            a, b = ({r.name: r for r in table.rows}.get(name) for table in (few, many))
            if a is not None and b is not None:
                text = f"{name}: {_share(a)} of {few.experts}, {_share(b)} of {many.experts}"
                told.append((text, _differences(a, b)))
        return told

    return find


def _share(row: Row) -> str:
    return f"{row.normalised:.1%}"


def _differences(one: Row, other: Row) -> tuple[float, ...]:
    return tuple(one.shares[t] - other.shares[t] for t in one.shares if t in other.shares)


CLAIMS = (
    Claim("Task arithmetic is better than plain averaging", "2212.04089",
          over("task_arithmetic", "linear")),
    Claim("TIES is better than task arithmetic", "2306.01708", over("ties", "task_arithmetic")),
    Claim("90 % of each delta can be dropped at random for less than 1 point (one expert)",
          "2311.03099", keeps("dare_sparse density=0.1"), slack=0.01),
    Claim("DARE before task arithmetic costs less than 1 point", "2311.03099",
          over("dare_linear", "task_arithmetic"), slack=0.01),
    Claim("DELLA's dropping by magnitude is better than DARE's at random", "2406.11617",
          over("della_linear", "dare_linear")),
    Claim("DELLA with election is better than DARE with election", "2406.11617",
          over("della", "dare_ties")),
    Claim("TALL-masks keep over 99 % of the experts", "2405.07813", keeps("tall_mask"), slack=0.01),
    Claim("Consensus is better than plain task arithmetic", "2405.07813",
          over("consensus_ta", "task_arithmetic")),
    Claim("Consensus is better than plain TIES", "2405.07813", over("consensus_ties", "ties")),
    Claim("EMR is close to the experts (within 3 %)", "2405.17461", keeps("emr"), slack=0.03),
    Claim("TSV-M is better than TIES", "2412.00081", over("tsv_m", "ties")),
    Claim("ISO-C is better than TIES", "2502.04959", over("iso_c", "ties")),
    Claim("ISO-CTS is better than ISO-C", "2502.04959", over("iso_cts", "iso_c")),
    Claim("LiNeS helps task arithmetic", "2410.17146", over("lines", "task_arithmetic")),
    Claim("WUDI is better than TSV-M, the best of what needs no data", "2503.08099",
          over("wudi", "tsv_m")),
    Claim("OptMerge is better than WUDI", "2505.19892", over("optmerge", "wudi")),
    Claim("The more experts, the less of each is kept", "2505.21226",
          shrinks("linear", "task_arithmetic", "ties", "tsv_m", "iso_c")),
    Claim("One bit for each weight of the delta costs nearly nothing (under 1 %)", "2402.10193",
          keeps("bitdelta"), slack=0.01),
    Claim("Mixed precision by singular value is better than one bit at the same size",
          "2406.08903", over("delta_come bits=1 group=32", "bitdelta")),
    Claim("5 % of the delta's entries, ternary, are enough (under 1 %)", "2311.13171",
          keeps("compeft density=0.05"), slack=0.01),
)  # fmt: skip
"""All claims that the records can speak to, by what they are about."""

NOT_TRIED = (
    ("Merging works better from a better base", "2410.03617", "bases of unequal quality"),
    ("Larger models merge more easily", "2410.03617", "benches of the sizes of `voices`"),
    ("A delta learnt on the base is worth more on the tuned model (Shadow-FT)", "2505.12716",
     "a pool with a base that was tuned to follow instructions"),
)  # fmt: skip
"""Claims that no record speaks to yet, and what would."""


def verdict(differences: Sequence[float], slack: float = 0.0) -> str:
    """Plainly: holds, does not hold here, cannot tell."""
    count = len(differences)
    if count < _FEWEST or abs(sum(differences) / count + slack) < _NOTHING:
        return "cannot tell"
    low, high = seeds_interval(differences)
    if low > -slack:
        return "holds"
    return "does not hold here" if high < -slack else "cannot tell"


def literature(folder: Path) -> str:
    """The table of claims and findings, and what was not tried."""
    rows = []
    for claim in CLAIMS:
        for found in _findings(claim, folder):
            mean = sum(found.differences) / len(found.differences)
            low, high = seeds_interval(found.differences)
            rows.append([
                f"{claim.text} ([{claim.source}](https://arxiv.org/abs/{claim.source}))",
                found.pool, found.compared,
                f"{100 * mean:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})",
                verdict(found.differences, claim.slack),
            ])  # fmt: skip
    if not rows:
        return "Nothing has been measured yet (`cermet bench`).\n"
    head = ["claim", "pool", "of the experts", "difference in points", "verdict"]
    missing = [f"- {text} ([{source}](https://arxiv.org/abs/{source})): it wants {what}."
               for text, source, what in NOT_TRIED]  # fmt: skip
    return markdown(head, rows) + "\nNot tried yet:\n\n" + "\n".join(missing) + "\n"


def _findings(claim: Claim, folder: Path) -> list[Finding]:
    found = []
    for pool in POOLS:
        tables = found_in(folder, pool)
        if tables:
            found += [Finding(pool, text, values) for text, values in claim.find(tables)
                      if len(values) >= _FEWEST]  # fmt: skip
    return found
