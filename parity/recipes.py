"""Random recipes that are valid in mergekit 0.1.5, and how each one is to be compared.

The same seed gives the same recipes. Every method comes equally often; gradients,
filters, slices and bfloat16 are drawn often enough for the floors in `FLOORS`, which the
suite asserts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from parity.pools import FAMILIES, Pool
from parity.settings import METHODS, RANDOM, Rule, draw_setting

__all__ = ["FLOORS", "Case", "check_coverage", "coverage", "features", "make_cases"]

Kind = Literal["float32", "rounded", "bfloat16", "random"]
"""How a case is compared.

float32: element by element with the peer, 1e-5 of the tensor's largest magnitude.
rounded: both compute in float32 and write bfloat16: within one unit in the last place.
bfloat16: the peer computes in bfloat16 too, so the reference is the peer's own answer to
the same recipe in float32; we round once, so we are within one unit of it.
random: masks are drawn, so each output has to be explained (see chance.py).
"""

FLOORS = {"gradient": 30, "filter": 30, "slices": 30, "bfloat16": 30}
EACH_METHOD = 8
CASES = 200


@dataclass(frozen=True, slots=True)
class Case:
    """One recipe, with absolute paths in place of models.

    `twin` is the recipe whose output, by the peer, is the reference where it is not the
    case's own: the same sums in float32.
    """

    index: int
    method: str
    kind: Kind
    family: str
    recipe: Mapping[str, Any]
    twin: Mapping[str, Any] | None


def make_cases(pools: Mapping[tuple[str, str], Pool], count: int, seed: int) -> list[Case]:
    """`count` cases, the methods in turn."""
    names = list(METHODS)
    return [
        _Writer(pools, names[i % len(names)], np.random.default_rng([seed, i])).case(i)
        for i in range(count)
    ]


def features(recipe: Mapping[str, Any]) -> set[str]:
    """Which of the counted features a recipe has, read off the recipe itself."""
    found = {"slices"} if "slices" in recipe else set()
    words = repr(recipe)
    if "bfloat16" in words:
        found.add("bfloat16")
    settings = list(_settings(recipe))
    if any(_is_gradient(s) or _any_value(s, _is_gradient) for s in settings):
        found.add("gradient")
    if any(_any_value(s, lambda _: True) for s in settings):
        found.add("filter")
    return found


def _is_gradient(value: Any) -> bool:
    return isinstance(value, list) and not any(isinstance(v, dict) for v in value)


def _any_value(setting: Any, test: Any) -> bool:
    if not isinstance(setting, list) or _is_gradient(setting):
        return False
    return any(test(part["value"]) for part in setting)


def _settings(node: Any) -> Iterable[Any]:
    """Every value under a `parameters` key, at any level."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key == "parameters":
                yield from value.values()
            else:
                yield from _settings(value)
    elif isinstance(node, list):
        for value in node:
            yield from _settings(value)


def coverage(cases: Iterable[Case]) -> Counter[str]:
    """How many cases have each method and each feature."""
    counts: Counter[str] = Counter()
    for case in cases:
        counts[case.method] += 1
        counts.update(features(case.recipe))
    return counts


def check_coverage(cases: list[Case]) -> list[str]:
    """What a full run lacks, one sentence each; empty where nothing."""
    counts = coverage(cases)
    floors = dict.fromkeys(METHODS, EACH_METHOD) | FLOORS
    lacking = [f"{k}: {counts[k]} of {n}" for k, n in floors.items() if counts[k] < n]
    if len(cases) < CASES:
        lacking.append(f"cases: {len(cases)} of {CASES}")
    return lacking


class _Writer:
    """Draws one case; the order of the draws is the definition of the seed."""

    def __init__(
        self, pools: Mapping[tuple[str, str], Pool], method: str, rng: np.random.Generator
    ) -> None:
        self.rng = rng
        self.method = method
        self.rule: Rule = METHODS[method]
        self.family = FAMILIES[int(rng.integers(len(FAMILIES)))]
        self.pools = {d: pools[self.family.name, d] for d in ("float32", "bfloat16")}

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def case(self, index: int) -> Case:
        exact = self.method not in RANDOM or index // len(METHODS) % 3 == 0
        sliced = self.chance(0.33)
        layout = self._stacked() if sliced else self._listed()
        if self.method in RANDOM and exact:
            layout = _without(layout, "density")
        recipe = {"merge_method": self.method, **layout}
        pool, dtypes, kind, twin = self._precision(random=not exact)
        named = _placed(recipe, self.pools[pool].models)
        other = None
        if twin is not None:
            other = {**_placed(recipe, self.pools["bfloat16"].models), **twin}
        return Case(index, self.method, kind, self.family.name, {**named, **dtypes}, other)

    def _precision(
        self, *, random: bool
    ) -> tuple[str, dict[str, str], Kind, dict[str, str] | None]:
        """Pool, dtype keys, kind of comparison, and dtype keys of the twin on the bf16 pool."""
        single = {"dtype": "float32"}
        half = {"dtype": "bfloat16"}
        if random:
            forms: list[tuple[str, dict[str, str], Kind, dict[str, str] | None]] = [
                ("float32", {}, "random", None),
                ("float32", single, "random", None),
                ("bfloat16", single, "random", None),
            ]
        else:
            forms = [
                ("float32", {}, "float32", None),
                ("float32", single, "float32", None),
                ("bfloat16", single, "float32", None),
                ("float32", {"out_dtype": "bfloat16"}, "rounded", None),
                ("bfloat16", {**single, "out_dtype": "bfloat16"}, "rounded", None),
                ("bfloat16", {}, "bfloat16", single),
                ("bfloat16", half, "bfloat16", single),
                ("float32", half, "bfloat16", single),
            ]
        return forms[int(self.rng.integers(len(forms)))]

    def _models(self) -> tuple[list[int], int | None]:
        """Indices of the models in recipe order (0 is the base), and the base's."""
        low, high = self.rule.experts
        count = int(self.rng.integers(low, high + 1))
        models = [int(i) + 1 for i in self.rng.permutation(4)[:count]]
        if self.rule.base == "input":
            if count > 1 and self.chance(0.5):
                models[int(self.rng.integers(count))] = 0
            return models, None
        if self.rule.base == "optional" and self.chance(0.5):
            return models, None
        models.insert(0 if self.chance(0.7) else int(self.rng.integers(count + 1)), 0)
        return models, 0

    def _listed(self) -> dict[str, Any]:
        models, base = self._models()
        top, each = self._parameters(models, base, edges=True)
        if base is not None and self.chance(0.3):  # a base that is not listed is appended
            models.remove(base)
        entries = [_entry({"model": m}, each[m]) for m in models]
        recipe: dict[str, Any] = {"models": entries}
        return _entry(recipe if base is None else {**recipe, "base_model": base}, top)

    def _stacked(self) -> dict[str, Any]:
        """One to three slices, of the same models unless they are only copied."""
        models, base = self._models()
        local = base is not None and self.chance(0.15)
        top, _ = self._parameters(models, base, edges=False)
        slices = []
        for _ in range(int(self.rng.integers(1, 4))):
            if self.method == "passthrough":
                models = [int(self.rng.integers(5))]
            own, each = self._parameters(models, base, edges=False)
            layers = self.family.layers
            length = int(self.rng.integers(1, layers + 1))
            shared = int(self.rng.integers(layers - length + 1))
            sources = []
            for model in models:
                shifted = self.chance(0.1)
                start = int(self.rng.integers(layers - length + 1)) if shifted else shared
                source = {"model": model, "layer_range": [start, start + length]}
                sources.append(_entry(source, each[model] if self.chance(0.5) else {}))
            part: dict[str, Any] = {"sources": sources}
            if local:
                part["base_model"] = base
            slices.append(_entry(part, own if self.chance(0.3) else {}))
        recipe: dict[str, Any] = {"slices": slices}
        return _entry(recipe if base is None or local else {**recipe, "base_model": base}, top)

    def _parameters(
        self, models: list[int], base: int | None, *, edges: bool
    ) -> tuple[dict[str, Any], dict[int, dict[str, Any]]]:
        """Settings for the top (complete for what has no default), and for each model."""
        rng, rule = self.rng, self.rule
        top: dict[str, Any] = {}
        each: dict[int, dict[str, Any]] = {m: {} for m in models}
        for name, dial in {**rule.each, **rule.once}.items():
            # A density that is left out is 1: it would leave nothing random to compare.
            wanted = name in rule.needed or name == "density" or self.chance(0.6)
            if wanted:
                top[name] = draw_setting(rng, dial, self.family, edges=edges, default=True)
            if name not in rule.each or not self.chance(0.6):
                continue
            for model in models:
                if model != base and self.chance(0.8):
                    each[model][name] = draw_setting(
                        rng, dial, self.family, edges=edges, default=not wanted
                    )
        return top, each


def _entry(entry: dict[str, Any], parameters: dict[str, Any]) -> dict[str, Any]:
    return {**entry, "parameters": parameters} if parameters else entry


def _without(node: Any, name: str) -> Any:
    """The same recipe without one parameter."""
    if isinstance(node, dict):
        return {k: _without(v, name) for k, v in node.items() if k != name and v != {name: v}}
    if isinstance(node, list):
        return [_without(v, name) for v in node]
    return node


def _placed(node: Any, models: tuple[Path, ...]) -> Any:
    """The same recipe with the paths of a pool in place of the indices of models."""
    if isinstance(node, dict):
        return {
            k: str(models[v]) if k in ("model", "base_model") else _placed(v, models)
            for k, v in node.items()
        }
    if isinstance(node, list):
        return [_placed(v, models) for v in node]
    return node
