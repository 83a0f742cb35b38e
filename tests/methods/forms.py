"""Every registered method with parameters under which all of its code runs.

The forms are made from what a method declares, so a new method is held to the contract
without a line here: its required parameters, then with every share below 1, then with every
choice of its truth values.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from cermet import merge_tensors
from cermet.core.registry import Method, Parameter, all_methods, call

Model = dict[str, Tensor]

WEIGHTS = (0.7, -0.4, 1.3, 0.2, 0.9, 0.5, 1.1, -0.1, 0.6)
SHAPES: Mapping[str, tuple[int, ...]] = {
    "scalar": (),
    "one": (1,),
    "empty": (0, 4),
    "vector": (13,),
    "matrix": (6, 11),
    "column": (7, 1),
    "cube": (2, 3, 5),
}
_BASES = {"required": (True,), "first": (True,), "optional": (True, False), "none": (False,)}


@dataclass(frozen=True)
class Form:
    """A method with a number of experts, with or without a base, and its parameters."""

    method: Method
    experts: int
    base: bool
    parameters: Mapping[str, Any]

    @property
    def label(self) -> str:
        """A name for the test's report."""
        words = [f"{k}={v}" for k, v in self.parameters.items() if k != "weight"]
        count = f"{self.experts}{'' if self.base else ' without base'}"
        return "-".join([self.method.name, count, *words])

    def merge(self, base: Model | None, experts: Sequence[Model], **options: Any) -> Model:
        """The merged tensors."""
        given = base if self.base else None
        if self.method.needs:
            options["needs"] = statistics(self.method, base, experts)
        return merge_tensors(self.method.name, given, experts, **{**self.parameters, **options})

    def with_experts(self, count: int) -> Form:
        """The same form with another number of experts."""
        weights = {k: WEIGHTS[:count] for k, v in self.parameters.items() if isinstance(v, tuple)}
        return replace(self, experts=count, parameters={**self.parameters, **weights})

    def permuted(self, order: Sequence[int]) -> Form:
        """The same form with its values for each model in another order."""
        moved = {
            k: tuple(v[i] for i in order) if isinstance(v, tuple) else v
            for k, v in self.parameters.items()
        }
        return replace(self, parameters=moved)

    @property
    def grain(self) -> str:
        """The grain under these parameters."""
        known = {p.name: p.default for p in self.method.parameters.values()}
        return str(call(self.method.grain, **{**known, **self.parameters}))


def _value(parameter: Parameter, count: int) -> Any:
    return WEIGHTS[:count] if parameter.per_model else 0.3


def _required(method: Method, count: int) -> dict[str, Any]:
    """What has to be given, and few steps where there are any, which take the time of a test."""
    given = {p.name: _value(p, count) for p in method.parameters.values() if p.required}
    return {**given, **({"steps": 3} if "steps" in method.parameters else {})}


def _shares(method: Method) -> dict[str, float]:
    """Values inside (0, 1) for what is limited to it; together they make sense for every method."""
    limited = [p.name for p in method.parameters.values() if p.limits == (0.0, 1.0)]
    return {name: 0.5 if name == "density" else 0.3 for name in limited}


def _choices(method: Method) -> list[dict[str, Any]]:
    truths = [p for p in method.parameters.values() if p.kind is bool]
    flips = itertools.product((False, True), repeat=len(truths))
    found: list[dict[str, Any]] = [
        {p.name: not p.default for p, flip in zip(truths, row, strict=True) if flip}
        for row in flips
    ]
    words = [p for p in method.parameters.values() if p.choices]
    return found + [{p.name: w} for p in words for w in p.choices if w != p.default]


def _forms(method: Method) -> list[Form]:
    least, most = method.models
    count = 3 if most is None else least
    found = []
    for base in _BASES[method.base]:
        required, shares = _required(method, count), _shares(method)
        if shares:
            found.append(Form(method, count, base, required))
        for choice in _choices(method):
            found.append(Form(method, count, base, {**required, **shares, **choice}))
    return found


METHODS = all_methods()
FORMS = [form for method in METHODS.values() for form in _forms(method)]
"""Every method in every form."""

DEFAULTS = [_forms(method)[0] for method in METHODS.values()]
"""Every method once, with its required parameters alone."""


def label(form: Form) -> str:
    """For `ids`."""
    return form.label


def pool(
    experts: int,
    shapes: Mapping[str, tuple[int, ...]] = SHAPES,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    ties: bool = False,
) -> tuple[Model, list[Model]]:
    """A base and its experts. A third of each expert's deltas is zero; with `ties` the others
    take four values only.
    """
    own = torch.Generator().manual_seed(seed)

    def draw(shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=own)

    base = {name: draw(shape).mul(8).round().div(8) + 0.0 for name, shape in shapes.items()}
    models = []
    for _ in range(experts):
        model = {}
        for name, shape in shapes.items():
            delta = draw(shape) * 0.3
            if ties:
                delta = delta.sign() * torch.where(delta.abs() > 0.2, 0.25, 0.125)
            kept = torch.rand(shape, generator=own) > 1 / 3
            model[name] = (base[name] + delta * kept).to(dtype)
        models.append(model)
    return {name: value.to(dtype) for name, value in base.items()}, models


def statistics(method: Method, base: Model | None, experts: Sequence[Model]) -> dict[str, Any]:
    """Every statistic of a method: made of the models alone, so that it moves with them."""
    found: dict[str, Any] = {}
    for place, need in enumerate(method.needs):
        if need.square:
            each = [{n: _gram(v) for n, v in e.items() if v.ndim > 1} for e in experts]
        else:
            each = [
                {n: _score(v, (base or {}).get(n), place) for n, v in e.items()} for e in experts
            ]
        found[need.name] = each if need.per_model else each[0]
    return found


def _gram(value: Tensor) -> Tensor:
    """A Gram matrix of a tensor's rows, as if they were inputs, none of which is dead."""
    wide = value.to(torch.float32)
    return wide.transpose(-1, -2) @ wide + torch.eye(wide.shape[-1], device=wide.device)


def _score(value: Tensor, base: Tensor | None, place: int) -> Tensor:
    """How far a tensor has moved, and some of its base's size; others for each statistic."""
    wide = value.to(torch.float32)
    if base is None or base.shape != value.shape:
        return wide.abs()
    start = base.to(torch.float32)
    return (wide - start).abs() + 0.25 * place * start.abs()


def same_bits(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two models hold the same names, dtypes, shapes and bits."""
    return one.keys() == other.keys() and all(
        a.dtype == other[n].dtype
        and a.shape == other[n].shape
        and bool((_bits(a) == _bits(other[n])).all())
        for n, a in one.items()
    )


def _bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(math.prod(tensor.shape)).view(torch.uint8)
