"""What `cermet bench` has found on the pools of the zoo, from records: pages and README's table.

`bench/records/pools/NAME.jsonl` holds the lines of test of one pool, as `cermet bench` wrote
them into records.jsonl; `python -m bench keep --dir OUT` takes them over, with the pictures of a
pool that has a page.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from bench.table import markdown
from cermet.core.brevity import brief
from cermet.proving.formats import caption
from cermet.proving.table import Row, Table, across, tables
from parity.peer import ROOT

__all__ = ["PICTURES", "POOLS", "found_in", "keep", "lines_of", "main_table", "results"]

POOLS = ("intents", "sight", "voices", "strings")
"""The pools of the page, in its order; records of others are kept for claims about several."""

PICTURES = ROOT / "docs" / "pictures"
_PLACE = "pools"
_PICTURES = {
    "bytes": "Quality against bytes: one point for each row, and the frontier.",
    "experts": "Quality against the number of experts.",
}
_NOTHING = "Nothing has been measured yet (`cermet bench {name} --methods all`).\n"


@cache
def found_in(folder: Path, name: str) -> tuple[Table, ...]:
    """The tables of a pool, with the largest number of experts first; none without records."""
    return tuple(tables(lines_of(folder, name)))


def lines_of(folder: Path, name: str) -> list[Mapping[str, Any]]:
    """The records of a pool, as they were kept; none where there is no file."""
    file = folder / _PLACE / f"{name}.jsonl"
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def keep(out: Path, folder: Path, pictures: Path) -> Path:
    """Take lines of test over from the folder of a bench, and pictures that the page shows.

    SystemExit where there is no such line.
    """
    file = out / "records.jsonl"
    if not file.is_file():
        raise SystemExit(f"'{out}' holds no records.jsonl of a bench.")
    latest = dict[str, dict[str, Any]]()
    for text in file.read_text("utf-8").splitlines():
        line = json.loads(text)
        if line["split"] == "test":
            latest[json.dumps([line[k] for k in ("experts", "seed", "kind", "name")])] = line
    if not latest:
        raise SystemExit(f"'{file}' holds nothing that was measured on test.")
    name = Path(next(iter(latest.values()))["pool"]).name
    kept = folder / _PLACE / f"{name}.jsonl"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text("".join(json.dumps(_short(x)) + "\n" for x in latest.values()), "utf-8")
    pictures.mkdir(parents=True, exist_ok=True)
    for picture in _PICTURES if name in POOLS else ():
        drawn = out / f"{picture}.png"
        if drawn.is_file():
            shutil.copyfile(drawn, pictures / f"{name}-{picture}.png")
    return kept


def _short(line: dict[str, Any]) -> dict[str, Any]:
    """A line without what names folders of the machine that it was measured on."""
    kept = {key: value for key, value in line.items() if key not in ("recipe", "outcomes")}
    if "not_run" in kept:
        kept["not_run"] = re.sub(r"'/(?:[^/']+/)*([^/']+)'", r"'\1'", kept["not_run"])
    return kept


def main_table(folder: Path, most: int = 8) -> str:
    """README's table: the references, and the best of what one checkpoint or assembly can do.

    Of the first pool that has records.
    """
    tables = [found_in(folder, name) for name in POOLS]
    found = next((one for one in tables if one), ())
    if not found:
        return _NOTHING.format(name=POOLS[0])
    table = found[0]
    merges = [row for row in table.rows if row.kind == "merge"]
    wanted = {row.name for row in merges[:most]} | {"linear", "task_arithmetic", "ties"}
    rest = [row for row in table.rows if row.kind in ("assembly", "codec")][:4]
    told = [
        row
        for row in table.rows
        if row.name in ("base", "multi-task", "experts kept apart")
        or (row.kind == "merge" and row.name in wanted)
        or row in rest
    ]
    more = f"All {len(table.rows)} rows: [Results](docs/results.md)."
    return f"{caption(table)}\n\n{_rows(told)}\n{more}\n"


def results(folder: Path, name: str, pictures: Path = PICTURES) -> str:
    """The whole table of a pool, its pictures, what was not run, and how it goes with experts."""
    found = found_in(folder, name)
    if not found:
        return _NOTHING.format(name=name)
    table = found[0]
    shown = [
        f"![{about}](pictures/{name}-{picture}.png)\n"
        for picture, about in _PICTURES.items()
        if (pictures / f"{name}-{picture}.png").is_file()
    ]
    parts = [*shown, caption(table) + "\n\n" + _rows(table.rows)]
    if table.not_run:
        names = dict[str, list[str]]()
        for missing in table.not_run:
            names.setdefault(missing.reason, []).append(f"`{missing.name}`")
        lines = [f"- {', '.join(which)}: {reason}" for reason, which in names.items()]
        parts.append("Not run:\n\n" + "\n".join(lines) + "\n")
    sizes = across(lines_of(folder, name))
    if sizes:
        parts.append(_by_size(sizes))
    return "\n".join(parts)


def _rows(rows: Sequence[Row]) -> str:
    head = [
        "method",
        "kind",
        "chosen",
        "of the experts",
        "seeds",
        "95 %",
        "worst task",
        "flips",
        "s",
        "size",
    ]
    alike = len({len(row.seeds) for row in rows}) < 2
    cells = [_cells(row, "" if alike else str(len(row.seeds))) for row in rows]
    told = [i for i in range(len(head)) if any(row[i] for row in cells)]
    return markdown([head[i] for i in told], [[row[i] for i in told] for row in cells])


def _cells(row: Row, seeds: str) -> list[str]:
    values = "/".join(dict.fromkeys(f"{value:g}" for value in row.chosen))
    return [
        row.name,
        row.kind,
        f"{row.knob} {values}" if row.knob else "",
        f"{row.normalised:.1%}",
        seeds,
        f"{100 * row.low:.1f} to {100 * row.high:.1f}",
        f"{row.worst:.1%}",
        "" if row.flips is None else f"{row.flips:.1%}",
        "" if row.kind == "reference" else f"{row.seconds:.2f}",
        brief(row.bytes, "B"),
    ]


def _by_size(sizes: Mapping[str, Sequence[Row]]) -> str:
    """Rows that were measured with several numbers of experts, the best with the fewest first."""
    counts = sorted({row.experts for rows in sizes.values() for row in rows})
    ordered = sorted(sizes.items(), key=lambda item: (item[1][0].experts, -item[1][0].normalised))
    told = []
    for name, rows in ordered:
        shares = {row.experts: f"{row.normalised:.1%}" for row in rows}
        told.append([name, *(shares.get(count, "") for count in counts)])
    head = ["of the experts, with", *map(str, counts)]
    return markdown(head, told)
