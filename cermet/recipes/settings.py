"""Parameters as written -> numbers: filters, gradients, precedence, types."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from cermet.core.errors import MethodError, RecipeError
from cermet.core.registry import Method, Parameter, nearest
from cermet.recipes.document import Document, Where
from cermet.recipes.schema import Settings

__all__ = [
    "Scope",
    "Settled",
    "check_names",
    "check_values",
    "convert",
    "narrowed",
    "unknown",
    "unmatched_filters",
]


@dataclass(frozen=True)
class Scope:
    """Parameters at one level of a recipe, and where they stand."""

    settings: Settings
    where: Where


@dataclass(frozen=True)
class Settled:
    """Evaluates the parameters of a method, or of a step that stands at `beside`."""

    document: Document
    method: Method
    beside: Where = ()

    def value(
        self, parameter: Parameter, scopes: Iterable[Scope], tensor: str, t: float
    ) -> tuple[Any, bool]:
        """The value of a parameter for a tensor at relative depth t, and whether it is given."""
        for scope in scopes:
            if parameter.name in scope.settings:
                where = (*scope.where, parameter.name)
                found = self._evaluate(parameter, scope.settings[parameter.name], where, tensor, t)
                if found is not None:
                    return found, True
        if parameter.required:
            place = self.document.at(self.beside) if self.beside else self.document.origin
            raise RecipeError(
                f"{place}: '{self.method.name}' needs '{parameter.name}' for tensor '{tensor}'; "
                f"give it {'beside the step' if self.beside else 'under parameters'}."
            )
        default = parameter.default
        return (default[0] if parameter.per_model and default is not None else default), False

    def _evaluate(
        self, parameter: Parameter, given: Any, where: Where, tensor: str, t: float
    ) -> Any:
        if isinstance(given, Mapping):
            given = [given]
        if not isinstance(given, list):
            return convert(parameter, given, self.document.at(where))
        if not given:
            return None
        if any(isinstance(e, Mapping) for e in given):
            return self._filtered(parameter, given, where, tensor, t)
        values = [convert(parameter, e, self.document.at(where)) for e in given]
        return _gradient(values, t, parameter.kind)

    def _filtered(
        self, parameter: Parameter, given: list[Any], where: Where, tensor: str, t: float
    ) -> Any:
        for index, case in enumerate(given):
            pattern = case.get("filter")
            if pattern in (None, "*") or pattern in tensor:
                return self._evaluate(parameter, case["value"], (*where, index), tensor, t)
        return None


_CASE = {"filter", "value"}


def check_values(document: Document, method: Method, scope: Scope) -> None:
    """Refuse every value of a wrong form at one level, whether a tensor will ask for it or not."""
    for name, given in scope.settings.items():
        for parameter in _takers(method, name):
            _check_value(document, parameter, given, (*scope.where, name))


def _takers(method: Method, name: str) -> list[Parameter]:
    """The parameters that a name stands for: `density`, or in a pipeline also `trim.density`."""
    return [m.parameters[name] for m in (method, *method.steps) if name in m.parameters]


def narrowed(scope: Scope, step: Method) -> Scope:
    """A level of a pipeline as one of its steps sees it: `trim.density` before `density`."""
    own = {
        name.removeprefix(f"{step.name}."): value
        for name, value in scope.settings.items()
        if name.startswith(f"{step.name}.")
    }
    return replace(scope, settings={**scope.settings, **own})


def _check_value(document: Document, parameter: Parameter, given: Any, where: Where) -> None:
    values = given if isinstance(given, list) else [given]
    if not any(isinstance(e, Mapping) for e in values):
        each = replace(parameter, optional=parameter.optional and len(values) == 1)
        for value in values:
            convert(each, value, document.at(where))
        return
    for index, case in enumerate(values):
        here = (*where, index)
        if not isinstance(case, Mapping) or "value" not in case or set(case) - _CASE:
            raise RecipeError(
                f"{document.at(here)}: a filtered value is written "
                "{filter: part of a name, value: ...}."
            )
        if not isinstance(case.get("filter", ""), str | None):
            raise RecipeError(f"{document.at(here)}: a filter is a text.")
        _check_value(document, parameter, case["value"], here)


def unmatched_filters(
    document: Document, scopes: Iterable[Scope], names: Collection[str]
) -> list[str]:
    """A sentence for each filter that is part of no tensor's name."""
    found = []
    for scope in scopes:
        for parameter, given in scope.settings.items():
            for where, pattern in _filters(given, (*scope.where, parameter)):
                if pattern != "*" and not any(pattern in name for name in names):
                    place = document.at(where)
                    found.append(f"{place}: the filter '{pattern}' matches no tensor.")
    return found


def _filters(given: Any, where: Where) -> Iterator[tuple[Where, str]]:
    """Every filter of a value, with those of the values inside it."""
    for index, case in enumerate(given if isinstance(given, list) else [given]):
        if isinstance(case, Mapping):
            here = (*where, index)
            if isinstance(case.get("filter"), str):
                yield here, case["filter"]
            yield from _filters(case.get("value"), (*here, "value"))


_ON_IT = 1e-9  # a depth this near to a value is the value's own: t was rounded


def _gradient(values: list[Any], t: float, kind: type) -> Any:
    """Piecewise linear over the depth; truth values and words step."""
    position = t * (len(values) - 1)
    if abs(position - round(position)) < _ON_IT:
        position = float(round(position))
    low = int(position)
    if kind in (bool, str):
        return values[low]
    high = min(len(values) - 1, low + 1)
    share = position - low
    mixed = (1 - share) * values[low] + share * values[high]
    return round(mixed) if kind is int else mixed


_TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def convert(parameter: Parameter, given: Any, place: str) -> Any:
    """A value of the parameter's type; RecipeError for any other."""
    kind = parameter.type_name if parameter.choices else _KINDS[parameter.kind]
    wrong = RecipeError(f"{place}: '{parameter.name}' takes {kind}, not {given!r}.")
    if given is None and parameter.optional:
        return None
    if parameter.choices:
        if given in parameter.choices:
            return given
        raise wrong
    if parameter.kind is bool:
        if isinstance(given, bool):
            return given
        if isinstance(given, str) and given.lower() in _TRUTH:
            return _TRUTH[given.lower()]
        if given in (0, 1):
            return bool(given)
        raise wrong
    if isinstance(given, bool) or not isinstance(given, int | float | str):
        raise wrong
    try:
        number = float(given)
    except (ValueError, OverflowError):
        raise wrong from None
    if not abs(number) < _LARGEST or (parameter.kind is int and number != int(number)):
        raise wrong
    low, high = parameter.limits
    if (low is not None and number < low) or (high is not None and number > high):
        upper = "" if high is None else f" and at most {high:g}"
        lower = "" if low is None else f"at least {low:g}"
        raise RecipeError(f"{place}: '{parameter.name}' must be {lower}{upper}, not {number:g}.")
    return int(number) if parameter.kind is int else number


_LARGEST = 1e30  # beyond, the arithmetic in float32 ends; false for NaN, unlike its opposite
_KINDS = {float: "a number", int: "a whole number", bool: "true or false"}


def check_names(document: Document, method: Method, scope: Scope, *, per_model: bool) -> str | None:
    """What is wrong with the names of the parameters at one level, if anything.

    A level of a pipeline, beside a model or a slice, speaks to every step that takes the name.
    """
    for name in scope.settings:
        place = document.at((*scope.where, name))
        if name in method.accepts:
            continue
        takers = _takers(method, name)
        if not takers:
            plain = dict.fromkeys(n for step in method.steps for n in step.parameters)
            hint = nearest(name, [*plain, *method.parameters, *method.accepts])
            takes = ", ".join(method.parameters) or "no parameters"
            return f"{place}: '{method.name}' takes no '{name}' (it takes {takes}).{hint}"
        if per_model and not any(taker.per_model for taker in takers):
            return (
                f"{place}: '{method.name}' takes '{name}' once for all models; move it to the "
                "parameters of the recipe or of the slice."
            )
    return None


def unknown(method: Method, name: str) -> MethodError:
    """For callers in Python: a parameter that the method does not take."""
    takes = ", ".join(method.parameters) or "no parameters"
    hint = nearest(name, method.parameters)
    return MethodError(f"'{method.name}' takes no '{name}' (it takes {takes}).{hint}")
