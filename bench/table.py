"""Markdown from records: the tables that README.md shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.recipes import METHODS
from bench.records import Record, latest, least, load
from bench.shelf import HEAVIER, LIMIT

__all__ = ["heavier", "markdown", "tables"]

_SHORT = 0.01  # seconds: a difference below this cannot be told from nothing


def tables(folder: Path) -> str:
    """Everything that the records of a folder hold, as Markdown; ends in a newline."""
    parts = [
        _speed(latest(load(folder, "speed"), "shape", "method", "threads")),
        _shelf(latest(load(folder, "shelf"), "shape", "method", "threads")),
        _memory(latest(load(folder, "memory"), "shape", "method", "models")),
        *_scalings(load(folder, "scaling")),
        _authors(latest(load(folder, "authors"), "shape", "method")),
    ]
    found = [part for part in parts if part]
    return "\n".join(found) if found else "Nothing has been measured yet (`make bench`).\n"


def _speed(records: Sequence[Record]) -> str:
    if not records:
        return ""
    parts = []
    for shape in dict.fromkeys(r["shape"] for r in records):
        rows = sorted((r for r in records if r["shape"] == shape), key=_rank)
        head = [
            "method",
            "mergekit s",
            "Cermet s",
            "times faster",
            "of it disk s",
            "floor s",
            "merge / floor",
            "mergekit GB",
            "Cermet GB",
        ]
        parts.append(
            f"Pool of {rows[0]['parameters'] / 1e9:.2g} B parameters, bfloat16; {_where(rows)}. "
            "Wall seconds of whole commands, medians; GB of private memory (RssAnon), peak.\n\n"
            + markdown(head, [_speed_row(row) for row in rows])
            + "\nfloor: reading the same models and writing one, the fastest of all runs. merge / "
            "floor: Cermet's fastest run without starting up (a merge of a tiny pool) and waiting "
            "for the disk at the end. That wait stands under disk; mergekit leaves it out.\n"
        )
    return "\n".join(parts)


def _rank(record: Record) -> int:
    return METHODS.index(record["method"]) if record["method"] in METHODS else len(METHODS)


def _speed_row(record: Record) -> list[str]:
    own, peer, floor = record["cermet"], record["mergekit"], record["floor"]
    name = record["method"]
    if record["threads"] is not None:
        name += f" ({record['threads']} threads)"
    if own["problem"]:
        return [name, "", "failed", "", "", "", "", "", ""]
    theirs = ("", "", "")
    if peer is not None:
        failed = peer["problem"] is not None
        theirs = (
            "failed" if failed else f"{peer['median']:.1f}",
            "" if failed else f"{peer['median'] / own['median']:.1f}",
            f"{peer['anonymous'] / 1e9:.2f}",
        )
    ratio = f"{_alone(record) / least(floor):.2f}" if least(floor) > _SHORT else ""
    return [
        name,
        theirs[0],
        f"{own['median']:.2f}",
        theirs[1],
        f"{own['sync']:.2f}",
        f"{least(floor):.2f}",
        ratio,
        theirs[2],
        f"{own['anonymous'] / 1e9:.2f}",
    ]


def _shelf(records: Sequence[Record]) -> str:
    if not records:
        return ""
    head = ["method", "passes", "Cermet s", "floor s", "merge / floor", "of each pass", "GB"]
    parts = []
    for shape in dict.fromkeys(r["shape"] for r in records):
        rows = [r for r in records if r["shape"] == shape]
        heavy = {r["method"]: HEAVIER.get(r["method"], "") for r in rows if _each(r) > LIMIT}
        notes = _listed(heavy)
        parts.append(
            f"Methods in their authors' form on a pool of {rows[0]['parameters'] / 1e9:.2g} B "
            f"parameters, bfloat16, {rows[0]['experts']} experts; {_where(rows)}. Wall seconds of "
            "whole commands, medians (the floor: the fastest); of each pass: merge / floor, each "
            "the fastest, over how often the models are read.\n\n"
            + markdown(head, [_shelf_row(row) for row in rows])
            + "".join(
                f"\n{row['method']} ran with `--memory {budget}`, the others at the default.\n"
                for row in rows
                if (budget := row.get("budget")) is not None
            )
            + (f"\nMore than {LIMIT:g} times the floor a pass, by what they compute:\n\n{notes}"
               if notes else "")
        )  # fmt: skip
    return "\n".join(parts)


def heavier() -> str:
    """What methods of the shelf compute beside reading and adding, as a list."""
    return _listed(HEAVIER)


def _listed(reasons: Mapping[str, str]) -> str:
    return "".join(f"- {name}: {reason}.\n" for name, reason in reasons.items())


def _each(record: Record) -> float:
    """A merge without start-up and waiting, over the floor, for each pass of reading."""
    floor = least(record["floor"])
    if record["cermet"]["problem"] or floor <= _SHORT:
        return 0.0
    return _alone(record) / floor / int(record["passes"])


def _alone(record: Record) -> float:
    own = record["cermet"]
    return max(least(own) - least(record["startup"]) - float(own["sync"]), 0.0)


def _shelf_row(record: Record) -> list[str]:
    own, floor, passes = record["cermet"], record["floor"], int(record["passes"])
    if own["problem"]:
        return [record["method"], str(passes), "failed", "", "", "", ""]
    each = _each(record)
    ratios = [f"{each * passes:.2f}", f"{each:.2f}"] if each else ["", ""]
    return [
        record["method"],
        str(passes),
        f"{own['median']:.2f}",
        f"{least(floor):.2f}",
        *ratios,
        f"{own['anonymous'] / 1e9:.2f}",
    ]


def _memory(records: Sequence[Record]) -> str:
    if not records:
        return ""
    head = ["method", "models", "each, GB", "limit", "seconds", "private, MB", "at default, MB"]
    rows = []
    for record in records:
        own, limit = record["cermet"], record["limit"]
        rows.append(
            [
                record["method"],
                str(record["models"]),
                f"{record['model_bytes'] / 1e9:.2f}",
                "none" if limit is None else f"{limit >> 20} MiB",
                "failed" if own["problem"] else f"{own['median']:.1f}",
                f"{own['anonymous'] / 1e6:.0f}",
                f"{record['default']['anonymous'] / 1e6:.0f}",
            ]
        )
    return (
        f"With `--memory {records[0]['budget']}` (limit: of a control group, the page cache "
        f"counts; private: RssAnon, peak); {_where(records)}.\n\n" + markdown(head, rows)
    )


def _scalings(records: Sequence[Record]) -> list[str]:
    """How time grows, a table for each machine."""
    machines = dict[tuple[str, int], list[Record]]()
    for record in records:
        machine = record["machine"]
        machines.setdefault((machine["processor"], machine["cores"]), []).append(record)
    axes = "axis", "value", "method", "shape"
    return [_scaling(latest(found, *axes)) for found in machines.values()]


def _scaling(records: Sequence[Record]) -> str:
    head = ["axis", "value", "method", "pool", "seconds", "without start-up", "ratio to the first"]
    rows = []
    first: dict[tuple[str, str], float] = {}
    for record in sorted(records, key=lambda r: (r["axis"], r["method"], r["value"])):
        own = record["cermet"]
        alone = own["median"] - record["startup"]["median"] - own["sync"]
        start = first.setdefault((record["axis"], record["method"]), alone)
        usable = not own["problem"] and start > _SHORT and alone > _SHORT
        rows.append(
            [
                record["axis"],
                f"{record['value']:,}",
                record["method"],
                record["shape"],
                "failed" if own["problem"] else f"{own['median']:.2f}",
                f"{max(alone, 0.0):.2f}",
                f"{alone / start:.2f}" if usable else "",
            ]
        )
    return f"How time grows; {_where(records)}.\n\n" + markdown(head, rows)


def _authors(records: Sequence[Record]) -> str:
    """The code that methods were published with, run by hand; it is not part of this project."""
    if not records:
        return ""
    head = ["method", "authors' code", "pool", "theirs s", "Cermet s", "times faster"]
    head += ["theirs GB", "Cermet GB"]
    rows = []
    for record in sorted(records, key=lambda r: str(r["method"])):
        theirs, own = record["peer_seconds"], record["cermet_seconds"]
        sizes = (record["peer_peak_bytes"], record["cermet_peak_bytes"])
        rows.append(
            [
                record["method"],
                record["peer"],
                record["shape"],
                f"{theirs:.1f}",
                f"{own:.2f}",
                f"{theirs / own:.1f}",
            ]
            + [f"{size / 1e9:.2f}" for size in sizes]
        )
    return (
        f"Beside the authors' own code, on the same tensors in one run ({_where(records)}). "
        "Wall seconds of whole commands, medians; GB at the peak: theirs of the whole "
        "process, ours private.\n\n" + markdown(head, rows)
    )


def _where(records: Sequence[Record]) -> str:
    """Machine, versions and dates of some records, as one phrase."""
    last = records[-1]
    dates = sorted({r["date"] for r in records})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    machine, versions = last["machine"], last["versions"]
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory'] / 2**30:.0f} GiB, "
        f"{when}, Cermet {versions['cermet']}, mergekit {versions['mergekit']}, "
        f"torch {versions['torch']}"
    )


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; text stands left, numbers right."""
    ruler = ["---"] + ["---:"] * (len(head) - 1)
    lines = [head, ruler, *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
