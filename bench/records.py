"""Records: one JSON line for everything measured, with what is needed to measure it again."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench.measure import Run
from parity.peer import PEER_VERSION, ROOT

__all__ = ["RECORDS", "Record", "append", "context", "latest", "least", "load", "summary"]

RECORDS = ROOT / "bench" / "records"
"""Where the records lie, one file for each subcommand."""

Record = Mapping[str, Any]


def context(date: str) -> dict[str, Any]:
    """Date, machine and versions, as every record holds them. date: ISO, by the caller."""
    import cermet

    versions = {name: importlib.metadata.version(name) for name in ("torch", "numpy")}
    return {
        "date": date,
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)),
            "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        },
        "versions": {
            "cermet": cermet.__version__,
            "mergekit": PEER_VERSION,
            "python": platform.python_version(),
            **versions,
        },
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, "unknown")


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    """All repeats of one command, their median seconds, and the highest peak of RssAnon."""
    problem = next((run.problem for run in runs if run.problem), None)
    seconds = [round(run.seconds, 3) for run in runs]
    return {
        "seconds": seconds,
        "median": round(median(seconds), 3),
        "anonymous": max(run.anonymous for run in runs),
        "problem": problem,
    }


def least(runs: Mapping[str, Any]) -> float:
    """The fastest of several runs: where a machine is busy, or its host has taken free memory
    back, the floor suffers more than a merge, which would make merges look fast.
    """
    return float(min(runs["seconds"]))


def append(folder: Path, record: Record) -> None:
    """Add one record to the file of its kind."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{record['kind']}.jsonl").open("a") as file:
        file.write(json.dumps(record, sort_keys=True) + "\n")


def load(folder: Path, kind: str) -> list[Record]:
    """Every record of a kind, oldest first; none where there is no file."""
    file = folder / f"{kind}.jsonl"
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text().splitlines() if line.strip()]


def latest(records: Iterable[Record], *keys: str) -> list[Record]:
    """The last record for each combination of the keys, in the order of first appearance."""
    found: dict[tuple[Any, ...], Record] = {}
    for record in records:
        found[tuple(record[key] for key in keys)] = record
    return list(found.values())
