"""Which methods take some models, why the others do not, and what the numbers suggest."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cermet.core.registry import Method, all_methods

__all__ = ["Kept", "MethodFit", "advice_for", "methods_for"]

_CANCELLED = 0.5  # share of an expert's own change below which the others undo it


@dataclass(frozen=True)
class MethodFit:
    """Whether a method takes the models as they are; the reason where it does not."""

    name: str
    applies: bool
    reason: str = ""
    experimental: bool = False


def methods_for(models: int, refused: str | None) -> tuple[MethodFit, ...]:
    """Every method for so many models, of which one may be the base.

    `refused`: why none of them applies, as a sentence without its full stop.
    """
    found = []
    for name, method in all_methods().items():
        reason = refused or _reason(method, models)
        found.append(MethodFit(name, not reason, reason or "", bool(method.experimental)))
    return tuple(found)


def _reason(method: Method, models: int) -> str | None:
    """Why a method does not take so many models, if it does not."""
    least, most = method.models
    counts = {"required": {models - 1}, "first": {models - 1}, "none": {models}}
    given = counts.get(method.base, {models - 1, models})
    fitting = [n for n in given if least <= n and (most is None or n <= most)]
    if not fitting:
        takes = f"{least}" if least == most else f"{least} or more"
        beside = "" if method.base == "none" else " beside a base"
        return f"takes {takes} model{'' if least == most == 1 else 's'}{beside}"
    if method.needs:
        files = ", ".join(need.name for need in method.needs)
        return f"needs statistics, files of their own: {files}"
    return None


@dataclass(frozen=True)
class Kept:
    """What a recommendation rests on: models as recipes name them, each expert's `kept`, and
    whether the user said which model is the base.
    """

    base: str
    experts: Sequence[str]
    kept: Sequence[float | None]
    base_named: bool


def advice_for(given: Kept) -> tuple[list[str], dict[str, Any]]:
    """Sentences on what the numbers suggest, and a recipe that does it.

    The models have the same form and share an ancestor. One expert: half way between the two.
    Several: the sum of their deltas by the weight at which each expert keeps, on average, its own
    change in full; where one would lose most of it, the election of signs by TIES.
    """
    if len(given.experts) == 1:
        both = [{"model": m, "parameters": {"weight": 0.5}} for m in (given.base, *given.experts)]
        said = "Two models can be averaged, or one be moved towards the other."
        if not given.base_named:
            said += " If both were tuned from a third, compare them with --base."
        return [said], {"merge_method": "linear", "models": both}
    known = [k for k in given.kept if k is not None]
    mean = statistics.fmean(known) if known else 1.0
    weight = min(1.0, 1.0 / mean) if mean > 0 else 1.0
    least, most = (weight * f(known, default=1.0) for f in (min, max))
    if least < _CANCELLED:
        said = (
            f"The deltas pull against each other: of the plain sum an expert keeps as little as "
            f"{least:.0%} of its own change. Elect a sign for each element (ties)."
        )
        return [said], _recipe("ties", given, 1.0, {"density": 0.5})
    said = (
        f"Adding all deltas with the weight {weight:.2g} keeps {_range(least, most)} of each "
        "expert's own change; what that is worth, a score has to tell."
    )
    return [said], _recipe("task_arithmetic", given, float(f"{weight:.2g}"), {})


def _range(least: float, most: float) -> str:
    low, high = f"{least:.0%}", f"{most:.0%}"
    return low if low == high else f"{low} to {high}"


def _recipe(
    method: str, given: Kept, weight: float, parameters: Mapping[str, Any]
) -> dict[str, Any]:
    models = [{"model": m, "parameters": {"weight": weight}} for m in given.experts]
    recipe: dict[str, Any] = {
        "merge_method": method, "base_model": given.base, "models": models,
    }  # fmt: skip
    return {**recipe, "parameters": dict(parameters)} if parameters else recipe
