"""The demo's table as Markdown, from the last record of `cermet demo --json`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.records import latest, load
from bench.table import markdown

__all__ = ["demo"]


def demo(folder: Path) -> str:
    """The table of the last record and its conclusion, and a sentence for each other seed.

    A line that says so where there is no record.
    """
    records = load(folder, "demo")
    if not records:
        return "Nothing has been measured yet (`cermet demo --json >> bench/records/demo.jsonl`).\n"
    record, *others = reversed(latest(records, "seed"))
    domains = list(record["rows"][0]["accuracy"])
    head = ["model", *domains, "mean", "worst", "of experts", "at worst", "merge s", "MB"]
    table = markdown(head, [_row(row, domains) for row in record["rows"]])
    return (
        "Accuracy in per cent on held-out utterances, by domain. of experts: accuracy as a share "
        "of the domain's own expert, in the mean and at worst.\n\n"
        f"{table}\n{' '.join(record['conclusion'])} "
        f"The whole run took {record['seconds']:.0f} s{_trained(record)} (seed {record['seed']}).\n"
        + "".join(map(_other, reversed(others)))
    )


def _other(record: Mapping[str, Any]) -> str:
    """A sentence about a run with another seed: its best merge, and the plain average."""
    merges = [row for row in record["rows"] if row["kind"] == "merge"]
    best, average = max(merges, key=lambda row: row["kept_worst"]), merges[0]
    return (
        f"Seed {record['seed']}: {best['name']} keeps {best['kept_mean']:.1%} of the experts, "
        f"{best['kept_worst']:.1%} at worst; mean accuracy {best['mean']:.1%}, of the plain "
        f"average {average['mean']:.1%}.\n"
    )


def _trained(record: Mapping[str, Any]) -> str:
    names = ", ".join(record["trained"])
    return f", the training of {names} included" if names else "; the experts were there already"


def _row(row: Mapping[str, Any], domains: list[str]) -> list[str]:
    shares = [row["accuracy"][name] for name in domains]
    shares += [row["mean"], row["worst"], row["kept_mean"], row["kept_worst"]]
    seconds = "" if row["seconds"] is None else f"{row['seconds']:.2f}"
    return [
        row["name"],
        *(f"{100 * share:.1f}" for share in shares),
        seconds,
        f"{row['bytes'] / 1e6:.0f}",
    ]
