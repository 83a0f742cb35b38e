"""`shelf`: a row for each method in its authors' form, beside the floor of each pass of reading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.commands import Bench
from bench.pool import SHAPES
from bench.recipes import models_of, recipe
from bench.records import context, least
from bench.speed import Speed, measure_each, measured

__all__ = ["HEAVIER", "LIMIT", "measure_shelf"]

LIMIT = 6.0
"""Times the floor, for each pass of reading, above which a row has to say why."""

HEAVIER: Mapping[str, str] = {
    "breadcrumbs_official": "two order statistics of every row of every expert",
    "consensus_ta": "a mask of each expert against the sum of the others, and their count",
    "consensus_ties": "exact order statistics of each expert; masks against the sum of the others",
    "dare_magnitude": "exact order statistics of every tensor of every expert",
    "dare_official": "a random number for each weight of each expert",
    "della_official": "every row of every expert is sorted for its ranks; a random number a weight",
    "emr": "election and masks in both passes; packed bits of every expert are written too",
    "led_merging": "exact order statistics of two scores of each expert",
    "localize_and_stitch": "exact order statistics of each expert; packed bits are written too",
    "pcb_merging": "exponentials and tanh of each weight, and exact order statistics of them",
    "pcb_merging_es": "tanh of every pair of experts, and exact order statistics of the sums",
    "rht": "exact order statistics of every tensor of every expert, and an election",
    "sce_official": "variances, exact order statistics of them, and an election",
    "tall_mask": "a mask of each expert against the sum of the others; packed bits are written too",
    "tall_mask_ties": "exact order statistics of each expert; masks, whose bits are written too",
    "ties_max": "exact order statistics of each whole expert, and an election in two passes",
    "ties_official": "exact order statistics of each whole expert, and an election in two passes",
    "ties_official > lines": "that of ties_official",
    "ties_sv": "exact order statistics of each whole expert, and an election in two passes",
    "twin_merging": "a singular value decomposition of every matrix of every expert",
    "widen": "norms and cosines of every column, their ranks, and exponentials over the experts",
}
"""What the arithmetic of a method is, beside reading and adding."""


MEMORY: Mapping[str, str] = {"twin_merging": "9GB"}
"""Budgets of methods that need more than the default: of its largest matrix at once, here."""


def measure_shelf(speed: Speed, folder: Path, records: Path) -> int:
    """Measure and record every method; the number of methods that failed."""
    return measure_each(speed, folder, records, _one, _line)


def _line(record: Mapping[str, Any]) -> str:
    own = record["cermet"]
    said = own["problem"] or f"{own['median']:.2f} s, floor {least(record['floor']):.2f} s"
    return f"{record['method']:24} {said}, {record['passes']} passes"


def _one(bench: Bench, method: str, pool: Sequence[Path], speed: Speed) -> dict[str, Any]:
    content = recipe(method, pool)
    return {
        "kind": "shelf",
        "method": method,
        "shape": speed.shape,
        "parameters": SHAPES[speed.shape].parameters,
        "experts": len(pool) - 1,
        "passes": planned_passes(content),
        **measured(bench, method, content, models_of(method, pool), speed, MEMORY.get(method)),
        **context(speed.date),
    }


def planned_passes(content: Mapping[str, Any]) -> int:
    """How often a recipe reads its models at most, as `cermet plan` says."""
    from cermet import plan
    from cermet.recipes.plan import Task

    return max(task.passes for task in plan(content).tasks if isinstance(task, Task))
