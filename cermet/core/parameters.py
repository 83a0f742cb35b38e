"""The parameters of a method, as its signature declares them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from cermet.core.errors import MethodError

__all__ = ["Limits", "Parameter", "PerModel", "parameters_of"]

PerModel = tuple[float, ...]
"""A parameter with one value for each model that the method is given, in recipe order."""

Limits = tuple[float | None, float | None]
"""Least and most value, inclusive; None where there is no limit."""

_MISSING: Any = inspect.Parameter.empty
_ANY = (None, None)
_ENGINE_ONLY = {"mask", "noise", "place", "count", "original", "rslora"}
_LIMITS: Mapping[str, Limits] = {"density": (0.0, 1.0)}  # wherever the name is used


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a method, as recipes and the documentation see it."""

    name: str  # as recipes spell it: `lambda`, not `lambda_`
    argument: str
    per_model: bool
    kind: type  # float, int, bool, or str where there are choices
    default: Any  # _MISSING where the recipe has to give a value
    optional: bool  # None is a value
    limits: tuple[float | None, float | None] = (None, None)  # least and most, inclusive
    choices: tuple[str, ...] = ()  # the words of a Literal

    @property
    def type_name(self) -> str:
        """What values it takes: the name of a type, or the words to choose from."""
        return " or ".join(self.choices) or self.kind.__name__

    @property
    def required(self) -> bool:
        """Whether a recipe has to give a value."""
        return self.default is _MISSING


def _evaluated(function: Callable[..., Any], note: Any) -> Any:
    """An annotation; only those of parameters are evaluated, since others need torch."""
    if not isinstance(note, str):
        return note
    try:
        return eval(note, inspect.unwrap(function).__globals__)
    except Exception as error:
        raise MethodError(
            f"The annotation '{note}' of '{function.__name__}' cannot be evaluated: {error}."
        ) from error


def parameters_of(
    function: Callable[..., Any], derived: set[str], limits: Mapping[str, Limits]
) -> dict[str, Parameter]:
    """The parameters of a function: its keyword-only arguments but for `derived` and the engine's.

    Raises MethodError where one has an annotation that no parameter can have.
    """
    found: dict[str, Parameter] = {}
    for argument, spec in inspect.signature(function).parameters.items():
        if spec.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        if argument in derived or argument in _ENGINE_ONLY:
            continue
        note = _evaluated(function, spec.annotation)
        per_model = note == PerModel
        options = getattr(note, "__args__", ())
        optional = not per_model and type(None) in options
        if optional:
            note = next(o for o in options if o is not type(None))
            per_model = note == PerModel
        name = argument.rstrip("_")
        choices = get_args(note) if get_origin(note) is Literal else ()
        kind = float if per_model else str if choices else note
        if kind not in (float, int, bool) and not choices:
            raise MethodError(
                f"The parameter '{name}' of '{function.__name__}' is annotated {note!r}; a "
                "parameter is a float, an int, a bool, a Literal of words, or a cermet.PerModel."
            )
        limited = {**_LIMITS, **limits}.get(name, _ANY)
        found[name] = Parameter(
            name, argument, per_model, kind, spec.default, optional, limited, choices
        )
    return found
