"""`memory`: the same recipes with a small budget, in a cage that counts the page cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.cgroup import Cage, open_cage
from bench.commands import Bench
from bench.pool import SHAPES, build_pool, weight_bytes
from bench.recipes import recipe
from bench.records import append, context, summary

__all__ = ["BUDGET", "LIMIT", "Memory", "measure_memory"]

BUDGET = "256MB"
LIMIT = 768 << 20  # bytes of the cage
_MANY = 40  # models of the wide merge


@dataclass(frozen=True, slots=True)
class Memory:
    """What to measure: methods on `shape`, and one linear merge of 40 models of `wide`."""

    methods: Sequence[str]
    shape: str
    wide: str
    date: str


def measure_memory(memory: Memory, folder: Path, records: Path) -> int:
    """Measure and record; the number of merges that failed.

    Where there is no cage, that is said, and the merges run with the small budget alone.
    """
    cage = open_cage(LIMIT)
    if isinstance(cage, str):
        print(f"Nothing is measured under a limit: {cage}.")
    held = cage if isinstance(cage, Cage) else None
    bench = Bench(folder)
    failures = 0
    try:
        # Pools are made one after the other, so that one need not stay beside the other.
        for shape, experts, methods in (
            (memory.shape, 3, tuple(memory.methods)),
            (memory.wide, _MANY - 1, ("linear",)),
        ):
            pool = build_pool(folder, SHAPES[shape], experts)
            for method in methods:
                record = _one(bench, method, pool, shape, held, memory.date)
                append(records, record)
                failures += record["cermet"]["problem"] is not None
                print(_line(record), flush=True)
    finally:
        if held is not None:
            held.close()
    return failures


def _one(
    bench: Bench, method: str, pool: Sequence[Path], shape: str, cage: Cage | None, date: str
) -> dict[str, Any]:
    content = recipe(method, pool)
    caged = bench.cermet(content, memory=BUDGET, cage=cage)
    default = bench.cermet(content)
    return {
        "kind": "memory",
        "method": method,
        "shape": shape,
        "models": len(content["models"]),
        "budget": BUDGET,
        "cage": None if cage is None else cage.kind,
        "limit": None if cage is None else LIMIT,
        "model_bytes": weight_bytes(pool[0]),
        "cermet": summary([caged]),
        "default": summary([default]),
        **context(date),
    }


def _line(record: dict[str, Any]) -> str:
    own = record["cermet"]
    where = record["cage"] or "no cage"
    head = f"{record['method']:16} {record['models']:3} models of {record['shape']}, {where}: "
    if own["problem"]:
        return f"{head}failed: {own['problem']}"
    return (
        f"{head}{own['anonymous'] / 1e6:.0f} MB private in {own['median']:.1f} s; at the "
        f"default budget {record['default']['anonymous'] / 1e6:.0f} MB"
    )
