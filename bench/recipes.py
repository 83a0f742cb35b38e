"""The recipes of PEER.md's table of speeds, for any pool."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["METHODS", "models_of", "recipe"]

_PER_MODEL: dict[str, dict[str, float]] = {
    "linear": {"weight": 0.5},
    "task_arithmetic": {"weight": 0.5},
    "slerp": {},
    "nuslerp": {"weight": 0.5},
    "model_stock": {},
    "dare_ties": {"weight": 0.5, "density": 0.5},
    "della": {"weight": 0.5, "density": 0.5, "epsilon": 0.1},
    "ties": {"weight": 0.5, "density": 0.5},
    "breadcrumbs": {"weight": 0.5, "density": 0.5, "gamma": 0.01},
    "sce": {},
}
_ONCE: dict[str, dict[str, float]] = {"slerp": {"t": 0.5}, "sce": {"select_topk": 0.5}}
_WITHOUT_BASE = frozenset({"linear"})

METHODS: tuple[str, ...] = tuple(_PER_MODEL)
"""In the order of the table of the issue: cheap ones first."""


def models_of(method: str, pool: Sequence[Path]) -> tuple[Path, ...]:
    """The models that a method reads: `pool[0]` is the base.

    slerp merges the base with one expert, nuslerp two experts without a base; linear takes
    every model as an input.
    """
    if method == "slerp":
        return tuple(pool[:2])
    if method == "nuslerp":
        return tuple(pool[1:3])
    return tuple(pool)


def recipe(method: str, pool: Sequence[Path]) -> dict[str, Any]:
    """The recipe of one method, weights 0.5, density 0.5 and so on; bfloat16 in and out."""
    models = models_of(method, pool)
    parameters = _PER_MODEL[method]
    entries: list[dict[str, Any]] = []
    found: dict[str, Any] = {"merge_method": method, "models": entries, "dtype": "bfloat16"}
    has_base = method not in _WITHOUT_BASE and pool[0] in models
    if has_base:
        found["base_model"] = str(pool[0])
    for model in models:
        entry: dict[str, Any] = {"model": str(model)}
        if parameters and not (has_base and model == pool[0]):
            entry["parameters"] = dict(parameters)
        entries.append(entry)
    if method in _ONCE:
        found["parameters"] = dict(_ONCE[method])
    return found
