"""The recipes that are measured, for any pool: PEER.md's table of speeds, and the first shelf."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["METHODS", "SHELF", "models_of", "recipe"]

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
_WITHOUT_BASE = frozenset({"linear", "lm_cocktail", "wsm"})
_TWO_EXPERTS = frozenset({"nuslerp", "layer_swapping"})

METHODS: tuple[str, ...] = tuple(_PER_MODEL)
"""In the order of the table of the issue: cheap ones first."""

_SHELF: dict[str, dict[str, float]] = {
    "lm_cocktail": {"loss": 1.5},
    "wsm": {},
    "layer_swapping": {},
    "lines": {},
    "shadow_ft": {},
    "metagpt": {},
    "varm": {},
    "sce_official": {},
    "dare_official": {},
    "dare_magnitude": {},
    "della_official": {"weight": 0.5},
    "breadcrumbs_official": {},
    "ties_official": {},
    "ties_max": {},
    "ties_sv": {"slack": 0.001},
    "ties_official > lines": {},
    "pcb_merging": {},
    "pcb_merging_es": {},
    "consensus_ta": {},
    "consensus_ties": {},
    "tall_mask": {},
    "tall_mask_ties": {},
    "emr": {},
    "localize_and_stitch": {},
    "twin_merging": {},
    "rht": {},
    "led_merging": {},
    "widen": {},
}
"""What stands beside each model; all else is as the method's page has it by default."""

SHELF: tuple[str, ...] = tuple(_SHELF)
"""Methods in the form of their authors; a name with `>` is a pipeline."""

_ONCE |= {"lines": {"beta": 0.5}}
_STEPS: dict[str, dict[str, float]] = {"lines": {"alpha": 0.3, "beta": 0.7}}
_SCORED = frozenset({"led_merging"})  # the models' own weights stand for their scores


def models_of(method: str, pool: Sequence[Path]) -> tuple[Path, ...]:
    """The models that a method reads, and what it reads like them: `pool[0]` is the base.

    slerp merges the base with one expert, nuslerp and layer_swapping two experts without a base;
    linear takes every model as an input.
    """
    if method == "slerp":
        return tuple(pool[:2])
    if method in _TWO_EXPERTS:
        return tuple(pool[1:3])
    return (*pool, *pool[1:], *[pool[0]] * len(pool[1:])) if method in _SCORED else tuple(pool)


def recipe(method: str, pool: Sequence[Path]) -> dict[str, Any]:
    """The recipe of one method, weights 0.5, density 0.5 and so on; bfloat16 in and out."""
    models = dict.fromkeys(models_of(method, pool))
    parameters = {**_PER_MODEL, **_SHELF}[method]
    entries: list[dict[str, Any]] = []
    found: dict[str, Any] = {**_named(method), "models": entries, "dtype": "bfloat16"}
    has_base = method not in _WITHOUT_BASE and pool[0] in models
    if has_base:
        found["base_model"] = str(pool[0])
    for model in models:
        if has_base and model == pool[0]:
            entries.append({"model": str(model)})
            continue
        entry: dict[str, Any] = {"model": str(model)}
        if parameters:
            entry["parameters"] = dict(parameters)
        if method in _SCORED:
            files = {"score": model, "base_score": pool[0]}
            entry["needs"] = {n: str(m / "model.safetensors") for n, m in files.items()}
        entries.append(entry)
    if method in _ONCE:
        found["parameters"] = dict(_ONCE[method])
    return found


def _named(method: str) -> dict[str, Any]:
    """What a recipe says of its method, or of the steps of its pipeline."""
    steps = method.split(" > ")
    if len(steps) == 1:
        return {"merge_method": method}
    return {"pipeline": [{step: dict(_STEPS.get(step, {}))} for step in steps]}
