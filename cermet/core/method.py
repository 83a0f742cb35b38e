"""A method with all that it declares, and calls that give a function what its signature names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from cermet.core.needs import Need
from cermet.core.parameters import Parameter, PerModel
from cermet.core.parts import Part
from cermet.core.rounds import Round
from cermet.core.types import Grain, On

__all__ = ["Base", "Kind", "Method", "call", "takes"]

Kind = Literal["merge", "transform"]
"""What a method makes of the models: one, or as many as there were (a step of a pipeline)."""

Base = Literal["required", "optional", "first", "none"]
"""What a method does with a base model.

required: it is subtracted from the experts, and added to the result. optional: the same
where the recipe names one. first: it is the first of the models that the method is given.
none: there is no base; a `base_model` in the recipe is one more input.
"""


@lru_cache(maxsize=4096)  # the functions of a pipeline are made for each recipe
def takes(function: Callable[..., Any]) -> frozenset[str]:
    """The names of a function's arguments."""
    return frozenset(inspect.signature(function).parameters)


def call(function: Callable[..., Any], *args: Any, **known: Any) -> Any:
    """Call a function with those of the known arguments that its signature names."""
    wanted = takes(function)
    return function(*args, **{k: v for k, v in known.items() if k in wanted})


@dataclass(frozen=True)
class Method:
    """A method with everything that it declares."""

    name: str
    function: Callable[..., Any]
    on: On
    base: Base
    grain: Callable[..., Grain]
    rounds: tuple[Round, ...]
    mask: Callable[..., Any] | None
    fit: Callable[..., Mapping[str, Any]] | None
    coefficients: Callable[..., PerModel | None] | None
    models: tuple[int, int | None]  # number of experts: least, most
    draws: Mapping[str, bool]  # argument for random numbers -> whether each model has its own
    workspace: Callable[..., float]
    source: str
    check: Callable[..., str | None] | None
    accepts: Mapping[str, str]
    parameters: Mapping[str, Parameter]
    properties: frozenset[str]
    kind: Kind = "merge"
    needs: tuple[Need, ...] = ()
    experimental: str = ""  # why, where the method is
    parts: tuple[Part, ...] = ()
    restore: Callable[..., Any] | None = None
    rank: Callable[..., int] | None = None
    forms_deltas: bool = False
    otherwise: Callable[..., PerModel | None] | None = None
    continues: Callable[..., Mapping[str, float]] | None = None
    form: Callable[..., Any] | None = None
    steps: tuple[Method, ...] = ()  # of a pipeline: its steps with their parameters in it
    composed: tuple[str, ...] = ()  # the names of the steps of a method that is a pipeline

    @property
    def noise(self) -> bool:
        """Whether random numbers are drawn."""
        return bool(self.draws)

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return (self.function.__doc__ or "").strip().splitlines()[0]

    @property
    def whole(self) -> bool:
        """Whether a round is reduced over more than a tensor: a layer, or the whole model."""
        return any(r.scope != "tensor" for r in self.rounds)

    def shared(self) -> frozenset[str]:
        """Arguments that must be the same for every tensor: those that whole-model rounds read."""
        if self.steps:
            return frozenset(name for step in self.steps for name in step.shared())
        if not self.whole:
            return frozenset()
        readers = [f for r in self.rounds for f in (r.of, r.when, r.only, getattr(r, "rank", None))]
        named = {name for f in (*readers, self.mask) if f is not None for name in takes(f)}
        return frozenset(p.argument for p in self.parameters.values() if p.argument in named)

    @property
    def passes(self) -> int:
        """How often the inputs are read at most: once for each round, and once to merge."""
        return sum(r.reads for r in self.rounds) + 1
