"""The coefficients that a bench tries: one knob for each method, as many points for each.

What a method has to choose is a factor of the merged delta where there is one (`lambda`, or
`weight` of every expert alike), else the one parameter of which its paper says that it is to be
chosen. All other parameters keep their defaults, but for those of `FIXED`, whose default leaves
the method without effect. A method with nothing to choose has one point.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cermet.core.registry import Method

__all__ = ["CODECS", "FIXED", "Grid", "grid_of", "spaced"]

Spacing = Literal["even", "ratio"]


@dataclass(frozen=True)
class Grid:
    """The points of a method.

    knob: the parameter that is chosen, None where there is none. points: parameters of each.
    scales: whether the knob only scales the merged delta, so that one merge gives all points.
    """

    knob: str | None
    points: tuple[Mapping[str, Any], ...]
    scales: bool = False

    @property
    def values(self) -> list[float]:
        """Those of the knob."""
        return [] if self.knob is None else [point[self.knob] for point in self.points]


_SUMS = frozenset({
    "breadcrumbs", "breadcrumbs_official", "breadcrumbs_ties", "consensus_ta", "consensus_ties",
    "dare_linear", "dare_magnitude", "dare_official", "dare_ties", "della_linear", "shadow_ft",
    "task_arithmetic", "twin_merging",
})  # fmt: skip
"""Methods that add deltas up: a factor of 1/n is their average, and 1 their sum, so the n experts
of a pool set the range, from half of the average. Those on adapters are found by their shelf."""

_AROUND_ONE = (0.25, 2.0)
"""For methods whose result has about an expert's size at 1. Published searches lie in 0.8 to 2.5;
experts that disagree much (the pool voices) want less than 0.7."""

_KNOBS: Mapping[str, tuple[str, float, float, Spacing]] = {
    "doge_ta": ("lambda", 1.0, 16.0, "ratio"),  # eta is a length for CLIP; others are longer
    "opcm": ("alpha", 0.1, 0.9, "even"),
    "ramplus_tl": ("r", 0.05, 0.8, "ratio"),
    "sce": ("select_topk", 0.2, 1.0, "even"),
    "sce_official": ("select_topk", 0.05, 0.8, "ratio"),
    "widen": ("calibration", 0.5, 2.0, "ratio"),
    "localize_and_stitch": ("density", 0.025, 0.4, "ratio"),
    "tall_mask": ("threshold", 0.2, 0.6, "even"),  # the authors' own search
    "tall_mask_ties": ("threshold", 0.2, 0.6, "even"),
    "nearswap": ("t", 0.0005, 0.008, "ratio"),
    "slerp": ("t", 0.1, 0.9, "even"),
}
"""Knobs that are no factor of the merged delta, or not in the usual range."""

FIXED: Mapping[str, Mapping[str, Any]] = {
    "ties": {"density": 0.2},
    "dare_linear": {"density": 0.1},
    "dare_ties": {"density": 0.1},
    "della": {"density": 0.3},
    "della_linear": {"density": 0.3},
    "breadcrumbs": {"density": 0.9},
    "breadcrumbs_ties": {"density": 0.9},
}
"""Densities of the papers (90 % dropped by DARE, 70 % by DELLA, 80 % by TIES), where the default is
1, at which these methods are task arithmetic or a plain election; of mergekit for breadcrumbs."""

_GIVEN: Mapping[str, float] = {"weight": 1.0, "density": 0.5}
"""Values of parameters that have no default, where a method needs them and has no other."""

CODECS: Mapping[str, tuple[Mapping[str, Any], ...]] = {
    "compeft": ({"density": 0.05}, {"density": 0.2}),
    "dare_sparse": ({"density": 0.1},),
    "delta_come": ({"bits": 1.0, "group": 32}, {"bits": 2.0, "group": 32}),
    "lora": ({"rank": 8}, {"rank": 32}),
    "pruned": ({"density": 0.05}, {"density": 0.2}),
    "tsv_compress": ({"density": 0.0625}, {"density": 0.25}),
}
"""Settings of codecs, each a row of its own; a codec that is not named has its defaults."""


def spaced(low: float, high: float, count: int, spacing: Spacing) -> tuple[float, ...]:
    """Numbers from `low` to `high`, rounded to three digits; for one, the middle."""
    shares = [i / (count - 1) for i in range(count)] if count > 1 else [0.5]
    if spacing == "even":
        values = [low + (high - low) * share for share in shares]
    else:
        values = [low * (high / low) ** share for share in shares]
    return tuple(float(f"{value:.3g}") for value in values)


def grid_of(method: Method, experts: int, count: int) -> Grid:
    """The points of a method on a pool of so many experts.

    count: how many points there are, the same for every method that has a knob.
    """
    fixed = dict(FIXED.get(method.name, {}))
    for name, value in _GIVEN.items():
        if name in method.parameters and method.parameters[name].required:
            fixed.setdefault(name, value)
    found = _knob(method, experts)
    if found is None:
        return Grid(None, (fixed,))
    knob, low, high, spacing = found
    points = tuple({**fixed, knob: value} for value in spaced(low, high, count, spacing))
    return Grid(knob, points, _scales(method, knob))


def _knob(method: Method, experts: int) -> tuple[str, float, float, Spacing] | None:
    if method.name in _KNOBS:
        return _KNOBS[method.name]
    if method.name == "lines":  # beta is task arithmetic's factor, in the last layer
        return "beta", 1 / experts, 1.0, "ratio"
    if method.name == "metagpt":  # an average, so from half of it to a sum
        return "lambda", 0.5, float(max(experts, 2)), "ratio"
    factor = _factor(method)
    if factor is None:
        return None
    if method.name in _SUMS or method.on == "factors":
        return factor, 1 / (2 * max(experts, 1)), 1.0, "ratio"
    return factor, *_AROUND_ONE, "ratio"


def _factor(method: Method) -> str | None:
    """The parameter that scales the merged delta, if there is one."""
    if "lambda" in method.parameters:
        return "lambda"
    weight = method.parameters.get("weight")
    normalised = {"normalize", "normalize_weights"} & method.parameters.keys()
    if weight is None or not weight.per_model or normalised:
        return None
    return "weight" if method.base == "required" or method.on == "factors" else None


def _scales(method: Method, knob: str) -> bool:
    """Whether the knob is a factor of the merged delta, so that one merge gives all points."""
    return knob == _factor(method) and method.restore is None and method.on == "deltas"
