"""`speed`: each method by Cermet, by mergekit and beside the floor, in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.commands import Bench
from bench.measure import Run
from bench.pool import SHAPES, build_pool
from bench.recipes import models_of, recipe
from bench.records import append, context, least, summary

__all__ = ["Speed", "measure_each", "measure_speed", "measured"]

_EXPERTS = 3
_FLOORS = 3  # a turn: the first one may get memory that the host has taken back meanwhile


@dataclass(frozen=True, slots=True)
class Speed:
    """What to measure: methods, shape, repeats of each tool (0 leaves the peer out)."""

    methods: Sequence[str]
    shape: str
    repeats: int
    peer_repeats: int
    threads: int | None
    date: str


def measure_speed(speed: Speed, folder: Path, records: Path) -> int:
    """Measure and record every method; the number of methods that failed."""
    return measure_each(speed, folder, records, _one, _line)


def measure_each(
    speed: Speed,
    folder: Path,
    records: Path,
    one: Callable[[Bench, str, Sequence[Path], Speed], dict[str, Any]],
    line: Callable[[dict[str, Any]], str],
) -> int:
    """Make a record of every method on one pool and print its line; how many methods failed."""
    pool = build_pool(folder, SHAPES[speed.shape], _EXPERTS)
    bench = Bench(folder)
    bench.floor(pool)  # warms the page cache, as the table of the peer was measured
    failures = 0
    for method in speed.methods:
        record = one(bench, method, pool, speed)
        append(records, record)
        failures += record["cermet"]["problem"] is not None
        print(line(record), flush=True)
    return failures


def _one(bench: Bench, method: str, pool: Sequence[Path], speed: Speed) -> dict[str, Any]:
    content = recipe(method, pool)
    read = models_of(method, pool)
    return {
        "kind": "speed",
        "method": method,
        "shape": speed.shape,
        "parameters": SHAPES[speed.shape].parameters,
        "models": len(read),
        **measured(bench, method, content, read, speed),
        **context(speed.date),
    }


def measured(
    bench: Bench,
    method: str,
    content: dict[str, Any],
    read: Sequence[Path],
    speed: Speed,
    memory: str | None = None,
) -> dict[str, Any]:
    """Floor, start-up, merge and peer in turn, as many times as `speed` says.

    memory: the budget of the merge, where the default does not do.
    """
    own: list[Run] = []
    peer: list[Run] = []
    floor: list[Run] = []
    startup: list[Run] = []
    bench.synced.clear()
    for turn in range(max(speed.repeats, speed.peer_repeats)):
        if turn < speed.repeats:
            floor += [bench.floor(read) for _ in range(_FLOORS)]
            startup.append(bench.startup(method))
            own.append(bench.cermet(content, threads=speed.threads, memory=memory))
        if turn < speed.peer_repeats:
            peer.append(bench.mergekit(content))
    return {
        "threads": speed.threads,
        "budget": memory,
        "cermet": {**summary(own), "sync": round(median(bench.synced), 3)},
        "startup": summary(startup),
        "floor": summary(floor),
        "mergekit": summary(peer) if peer else None,
    }


def _line(record: dict[str, Any]) -> str:
    own, peer = record["cermet"], record["mergekit"]
    if own["problem"]:
        return f"{record['method']:16} failed: {own['problem']}"
    text = f"{record['method']:16} {own['median']:7.2f} s, floor {least(record['floor']):.2f} s"
    if peer is None:
        return text
    if peer["problem"]:
        return f"{text}, mergekit failed: {peer['problem']}"
    return f"{text}, mergekit {peer['median']:.2f} s: {peer['median'] / own['median']:.1f} x"
