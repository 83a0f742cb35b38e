"""`scaling`: how time grows with parameters, with experts, and falls with threads."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.commands import Bench
from bench.measure import Run
from bench.pool import SHAPES, build_pool
from bench.recipes import recipe
from bench.records import append, context, summary

__all__ = ["Scaling", "default_threads", "measure_scaling"]

_EXPERTS = 3


@dataclass(frozen=True, slots=True)
class Scaling:
    """What to measure: shapes at three experts, experts and threads at the shapes given."""

    methods: Sequence[str]
    shapes: Sequence[str]
    experts: Sequence[int]
    experts_shape: str
    threads: Sequence[int]
    threads_shape: str
    repeats: int
    date: str


def default_threads() -> tuple[int, ...]:
    """1, 2, 4 ... up to the cores of this process."""
    cores = len(os.sched_getaffinity(0))
    return tuple(2**n for n in range(cores.bit_length()) if 2**n <= cores)


def measure_scaling(scaling: Scaling, folder: Path, records: Path) -> int:
    """Measure and record every point of the three axes; the number of points that failed."""
    bench = Bench(folder)
    failures = 0
    for axis, value, shape, experts, threads in _points(scaling):
        pool = build_pool(folder, SHAPES[shape], experts)
        bench.floor(pool)
        for method in scaling.methods:
            content = recipe(method, pool)
            startup: list[Run] = []
            own: list[Run] = []
            bench.synced.clear()
            for _ in range(scaling.repeats):
                startup.append(bench.startup(method))
                own.append(bench.cermet(content, threads=threads))
            record: dict[str, Any] = {
                "kind": "scaling",
                "axis": axis,
                "value": value,
                "method": method,
                "shape": shape,
                "parameters": SHAPES[shape].parameters,
                "experts": experts,
                "threads": threads,
                "cermet": {**summary(own), "sync": sorted(bench.synced)[len(bench.synced) // 2]},
                "startup": summary(startup),
                **context(scaling.date),
            }
            append(records, record)
            failures += record["cermet"]["problem"] is not None
            print(_line(record), flush=True)
    return failures


def _points(scaling: Scaling) -> Iterator[tuple[str, float, str, int, int | None]]:
    """Axis, value on it, shape, experts, threads."""
    for shape in scaling.shapes:
        yield "parameters", SHAPES[shape].parameters, shape, _EXPERTS, None
    for experts in scaling.experts:
        yield "experts", experts, scaling.experts_shape, experts, None
    for threads in scaling.threads:
        yield "threads", threads, scaling.threads_shape, _EXPERTS, threads


def _line(record: dict[str, Any]) -> str:
    own = record["cermet"]
    head = f"{record['axis']:10} {record['value']:>13,} {record['method']:12}"
    if own["problem"]:
        return f"{head} failed: {own['problem']}"
    return f"{head} {own['median']:.2f} s ({record['startup']['median']:.2f} s of it starting up)"
