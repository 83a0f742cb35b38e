"""What papers claim of merging, and what the records of our pools say to it.

A claim compares two rows, or holds one against a limit, on every pool that has them, or compares a
row on several pools. Its verdict is of a paired interval: the differences on the tasks, one for
each task, by Student's distribution at 95 %. It holds where the whole interval is on the claim's
side, does not hold here where it is on the other, and where it is on both, or there are fewer than
three tasks, or less than a twentieth of a point between the rows, we cannot tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.findings import FEWEST, Find, grafted, keeps, more_in, over, shrinks
from bench.shadow import GRAFTS
from bench.table import markdown
from cermet.proving.intervals import seeds_interval

__all__ = ["CLAIMS", "Claim", "literature", "verdict"]


_NOTHING = 0.0005  # a difference below this is none: a number of another run of the same method
_MERGES = ("linear", "task_arithmetic", "tsv_m")


@dataclass(frozen=True)
class Claim:
    """A claim, where it is from, and how it is looked for in the records.

    slack: how far below 0 a difference may be for the claim to hold. wants: what has to be measured
    where no record speaks to it.
    """

    text: str
    source: str
    find: Find
    slack: float = 0.0
    wants: str = "a pool with these rows"


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
    Claim("Merging works better from a better base", "2410.03617",
          more_in(("voices-weak", "voices"), *_MERGES), wants="a bench of `voices-weak`"),
    Claim("Larger models merge more easily", "2410.03617",
          more_in(("voices-sizes-small", "voices", "voices-sizes-large"), *_MERGES),
          wants="benches of `voices-sizes-small` and `voices-sizes-large`"),
    Claim("A delta learnt on the base is worth more on the tuned model than tuning it (Shadow-FT)",
          "2505.12716", grafted(*GRAFTS), wants="`python -m bench shadow`"),
)  # fmt: skip
"""All claims, by what they are about."""


def verdict(differences: Sequence[float], slack: float = 0.0) -> str:
    """Plainly: holds, does not hold here, cannot tell."""
    count = len(differences)
    if count < FEWEST or abs(sum(differences) / count + slack) < _NOTHING:
        return "cannot tell"
    low, high = seeds_interval(differences)
    if low > -slack:
        return "holds"
    return "does not hold here" if high < -slack else "cannot tell"


def literature(folder: Path) -> str:
    """The table of claims and findings, and what no record speaks to yet."""
    rows, missing = list[list[str]](), list[str]()
    for claim in CLAIMS:
        text = f"{claim.text} ([{claim.source}](https://arxiv.org/abs/{claim.source}))"
        findings = [one for one in claim.find(folder) if len(one.differences) >= FEWEST]
        if not findings:
            missing.append(f"- {text}: it wants {claim.wants}.\n")
        for found in findings:
            mean = sum(found.differences) / len(found.differences)
            low, high = seeds_interval(found.differences)
            rows.append([
                text, found.pool, found.compared,
                f"{100 * mean:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})",
                verdict(found.differences, claim.slack),
            ])  # fmt: skip
    if not rows:
        return "Nothing has been measured yet (`cermet bench`).\n"
    head = ["claim", "pool", "of the experts", "difference in points", "verdict"]
    told = markdown(head, rows)
    return told + "\nNot tried yet:\n\n" + "".join(missing) if missing else told
