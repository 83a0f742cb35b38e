"""What the twenty methods take, and random settings for it.

A setting is a number, a gradient over depth, or a list of filters with numbers or
gradients. Ranges keep to what the peer can run: weights are positive, and a density
plus or minus an epsilon stays inside (0, 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from parity.pools import Family

__all__ = ["METHODS", "RANDOM", "Dial", "Rule", "draw_setting"]


@dataclass(frozen=True, slots=True)
class Dial:
    """The values that one parameter may take: a range, or a list of choices."""

    low: float = 0.0
    high: float = 1.0
    choices: tuple[Any, ...] = ()

    def draw(self, rng: np.random.Generator) -> Any:
        """One value, in few enough digits to be read in YAML."""
        if self.choices:
            return self.choices[int(rng.integers(len(self.choices)))]
        return float(f"{rng.uniform(self.low, self.high):.3g}")


@dataclass(frozen=True, slots=True)
class Rule:
    """What a method needs: its base, its experts, its parameters.

    base: "required", "optional" (subtracted where named) or "input" (one of the models).
    each: parameters with one value per model; the first ones in `needed` have no default.
    """

    base: Literal["required", "optional", "input"]
    experts: tuple[int, int]
    each: Mapping[str, Dial] = field(default_factory=dict)
    once: Mapping[str, Dial] = field(default_factory=dict)
    needed: tuple[str, ...] = ()


_FLAG = Dial(choices=(True, False))
_WEIGHT = {"weight": Dial(0.2, 1.2)}
_DENSITY = {"density": Dial(0.3, 0.75)}
_TASK = {"lambda": Dial(0.3, 1.5), "normalize": _FLAG, "int8_mask": _FLAG}
_SPARSE = {**_TASK, "rescale": _FLAG}
_GAMMA = {"gamma": Dial(0.0, 0.1)}
_EPSILON = {"epsilon": Dial(0.02, 0.2)}


def _arithmetic(once: Mapping[str, Dial], *each: Mapping[str, Dial]) -> Rule:
    dials = {name: dial for part in (_WEIGHT, *each) for name, dial in part.items()}
    return Rule("required", (1, 3), dials, once, ("weight",))


METHODS: dict[str, Rule] = {
    "linear": Rule("input", (2, 4), _WEIGHT, {"normalize": _FLAG}, ("weight",)),
    "slerp": Rule("required", (1, 1), {}, {"t": Dial(0.0, 1.0)}, ("t",)),
    "nuslerp": Rule(
        "optional",
        (2, 2),
        _WEIGHT,
        {"nuslerp_flatten": _FLAG, "nuslerp_row_wise": _FLAG},
        ("weight",),
    ),
    "multislerp": Rule("optional", (2, 4), _WEIGHT, {"normalize_weights": _FLAG}, ("weight",)),
    "karcher": Rule("input", (2, 4), {}, {"max_iter": Dial(choices=(5, 10, 20))}),
    "task_arithmetic": _arithmetic(_TASK, _DENSITY),
    "ties": _arithmetic(_SPARSE, {"density": Dial(0.1, 1.0)}),
    "dare_linear": _arithmetic(_SPARSE, _DENSITY),
    "dare_ties": _arithmetic(_SPARSE, _DENSITY),
    "breadcrumbs": _arithmetic(_SPARSE, {"density": Dial(0.1, 1.0)}, _GAMMA),
    "breadcrumbs_ties": _arithmetic(_SPARSE, {"density": Dial(0.1, 1.0)}, _GAMMA),
    "della": _arithmetic(_SPARSE, _DENSITY, _EPSILON),
    "della_linear": _arithmetic(_SPARSE, _DENSITY, _EPSILON),
    "model_stock": Rule("required", (2, 4), {}, {"filter_wise": _FLAG}),
    "nearswap": Rule("required", (1, 1), {}, {"t": Dial(0.0005, 0.05)}, ("t",)),
    "arcee_fusion": Rule("required", (1, 1)),
    "sce": Rule("required", (2, 4), {}, {"select_topk": Dial(0.1, 1.0), "int8_mask": _FLAG}),
    "ram": Rule("required", (1, 4), {}, {"epsilon": Dial(1e-5, 0.02)}),
    "ramplus_tl": Rule(
        "required",
        (1, 4),
        {},
        {"epsilon": Dial(1e-5, 0.02), "r": Dial(0.05, 0.5), "alpha": Dial(0.1, 1.0)},
    ),
    "passthrough": Rule("input", (1, 1), {"scale": Dial(0.0, 2.0)}),
}
"""The twenty methods of mergekit 0.1.5."""

RANDOM = frozenset({"dare_linear", "dare_ties", "della", "della_linear"})
"""Methods that draw a mask where a density is below 1."""


def draw_setting(
    rng: np.random.Generator, dial: Dial, family: Family, *, edges: bool, default: bool
) -> Any:
    """A number, a gradient or a list of filters for one parameter.

    edges: filters may name tensors outside of the layers. default: the setting gives a
    value for every tensor; without it, some fall through to the next level.
    """
    form = rng.choice(("plain", "gradient", "filter"), p=(0.35, 0.3, 0.35))
    if form == "plain":
        return dial.draw(rng)
    if form == "gradient" and not dial.choices:
        return _gradient(rng, dial)
    pairs = (*family.filters, *(family.edges if edges else ()))
    narrow, wide = pairs[int(rng.integers(len(pairs)))]
    names = ((narrow,), (wide,), (narrow, wide))[int(rng.integers(3))]
    setting: list[dict[str, Any]] = [{"filter": name, "value": _value(rng, dial)} for name in names]
    if default:
        last: dict[str, Any] = {"value": _value(rng, dial)}
        setting.append({"filter": "*", **last} if rng.random() < 0.3 else last)
    return setting


def _value(rng: np.random.Generator, dial: Dial) -> Any:
    if not dial.choices and rng.random() < 0.3:
        return _gradient(rng, dial)
    return dial.draw(rng)


def _gradient(rng: np.random.Generator, dial: Dial) -> list[Any]:
    return [dial.draw(rng) for _ in range(int(rng.integers(2, 6)))]
