"""How far adapters get into each other's way, told by their factors before anything is merged."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cermet.checkpoints.adapters import Adapted, Adapter
from cermet.maths.angles import column_space, overlap, principal_cosines
from cermet.maths.factors import Factors, cosine
from cermet.recipes.adapters import AdapterPlan

__all__ = ["Pair", "adapter_forecast", "interference"]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two adapters on one module.

    Attributes
    ----------
    outputs, inputs: overlap of the column spaces of their B, and of the row spaces of their A:
        the mean squared cosine of the principal angles, 0 where they are orthogonal, 1 where one
        contains the other; chance is what random spaces of this size would have, r / n.
    cosine: of the deltas themselves; negative where one undoes part of the other.
    """

    module: str
    one: int
    other: int
    outputs: float
    inputs: float
    chance: float
    cosine: float


def interference(adapters: Sequence[Adapter]) -> list[Pair]:
    """Every two adapters on every module that both have, module by module."""
    found = []
    for module in dict.fromkeys(m for a in adapters for m in a.modules):
        held = {i: a.modules[module] for i, a in enumerate(adapters) if module in a.modules}
        if len(held) < 2:
            continue
        given = {i: Factors(*m.matrices(), m.scale) for i, m in held.items()}
        outer = {i: column_space(f.b) for i, f in given.items()}
        inner = {i: column_space(f.a.t()) for i, f in given.items()}
        for i, j in itertools.combinations(given, 2):
            found.append(
                Pair(
                    module, i, j,
                    overlap(principal_cosines(outer[i], outer[j])),
                    overlap(principal_cosines(inner[i], inner[j])),
                    _chance(held[i], held[j]),
                    cosine(given[i], given[j]),
                )
            )  # fmt: skip
    return found


def _chance(one: Adapted, other: Adapted) -> float:
    """Overlap of random spaces of the larger rank, in the mean of outputs and inputs."""
    rank = max(one.rank, other.rank)
    return sum(min(1.0, rank / size) for size in one.shape) / 2


def adapter_forecast(plan: AdapterPlan, out: Path) -> dict[str, Any]:
    """Everything that `cermet plan` prints of a recipe of adapters, as plain data."""
    place = next((p for p in (out.absolute(), *out.absolute().parents) if p.is_dir()), None)
    pairs = interference(plan.adapters)
    return {
        "method": plan.method.name,
        "base": plan.base,
        "adapters": [_adapter(str(m), a) for m, a in zip(plan.models, plan.adapters, strict=True)],
        "modules": [
            {
                "module": t.module,
                "shape": list(t.like.shape),
                "adapters": list(t.members),
                "rank": t.rank,
                "dtype": t.dtype,
            }
            for t in plan.tasks
        ],
        "in_span": plan.in_span,
        "whole": [w.name for w in plan.whole],
        "bytes_written": plan.bytes_written(),
        "disk_free": shutil.disk_usage(place).free if place is not None else None,
        "interference": [_summary(plan, pairs, i, j) for i, j in _couples(pairs)],
        "pairs": [{field: getattr(p, field) for field in Pair.__slots__} for p in pairs],
        "warnings": list(plan.warnings),
        "notes": list(plan.notes),
    }


def _adapter(name: str, adapter: Adapter) -> dict[str, Any]:
    ranks = sorted({m.rank for m in adapter.modules.values()})
    tensors = [t for m in adapter.modules.values() for t in (m.a, m.b, m.bias) if t is not None]
    tensors += adapter.replaced.values()
    return {
        "name": name,
        "base": adapter.base,
        "modules": len(adapter.modules),
        "ranks": ranks,
        "bytes": sum(t.nbytes for t in tensors),
    }


def _couples(pairs: Sequence[Pair]) -> list[tuple[int, int]]:
    return list(dict.fromkeys((p.one, p.other) for p in sorted(pairs, key=lambda p: p.one)))


def _summary(plan: AdapterPlan, pairs: Sequence[Pair], one: int, other: int) -> dict[str, Any]:
    """Mean over the modules that two adapters share, and the module where they overlap most."""
    own = [p for p in pairs if (p.one, p.other) == (one, other)]
    worst = max(own, key=lambda p: p.outputs + p.inputs)
    return {
        "adapters": [str(plan.models[one]), str(plan.models[other])],
        "modules": len(own),
        "outputs": _mean([p.outputs for p in own]),
        "inputs": _mean([p.inputs for p in own]),
        "chance": _mean([p.chance for p in own]),
        "cosine": _mean([p.cosine for p in own]),
        "worst": {
            "module": worst.module,
            "outputs": worst.outputs,
            "inputs": worst.inputs,
            "cosine": worst.cosine,
        },
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
