"""The numbers of one output tensor: every parameter of its method, for every model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cermet.core.errors import MethodError, RecipeError
from cermet.core.registry import Method, Parameter, call
from cermet.core.types import Place
from cermet.recipes.document import Document
from cermet.recipes.parts import Part, settings_of
from cermet.recipes.pipeline import steps_of
from cermet.recipes.schema import Recipe, Source
from cermet.recipes.settings import Scope, Settled, narrowed

__all__ = ["Numbers"]


class Numbers:
    """Evaluates the parameters of a recipe's method, or of the steps of its pipeline."""

    def __init__(self, recipe: Recipe, document: Document, method: Method) -> None:
        self._document, self._method = document, method
        self._steps = [
            (Settled(document, step, own[0].where if own else ()), own)
            for step, own in steps_of(recipe, method)
        ]

    def of(
        self, place: Place, part: Part, experts: Sequence[tuple[Source, str]], t: float
    ) -> dict[str, Any]:
        """By argument, for the tensor at a place, at relative depth t.

        `experts` are the sources that the method is given, each with its tensor's name.
        """
        found: dict[str, Any] = {}
        for settled, own in self._steps:
            step = settled.method
            scopes = (*(self._seen(scope, step) for scope in part.scopes), *own)
            for parameter in step.parameters.values():
                if parameter.per_model:
                    value = self._for_each(settled, parameter, part, scopes, experts, t)
                else:
                    value, _ = settled.value(parameter, scopes, place.name, t)
                found[parameter.argument] = value
            problem = call(step.check, **found) if step.check is not None else None
            if problem is not None:
                where = self._document.at(settled.beside or part.where)
                raise RecipeError(f"{where}: '{step.name}' on '{place.name}': {problem}.")
        if self._method.steps:
            self._check_grain(place, found)
        return found

    def _check_grain(self, place: Place, found: dict[str, Any]) -> None:
        """Refuse steps that need a tensor cut in different ways."""
        try:
            call(self._method.grain, place=place, **found)
        except MethodError as error:
            where = self._document.at(("pipeline",))
            raise RecipeError(f"{where}: on '{place.name}', {error}") from error

    def _seen(self, scope: Scope, step: Method) -> Scope:
        return narrowed(scope, step) if self._method.steps else scope

    def _for_each(
        self,
        settled: Settled,
        parameter: Parameter,
        part: Part,
        scopes: Sequence[Scope],
        experts: Sequence[tuple[Source, str]],
        t: float,
    ) -> tuple[Any, ...] | None:
        """The values of a parameter that each model has its own of."""
        values = []
        for source, tensor in experts:
            where = next(w for s, w in zip(part.sources, part.wheres, strict=True) if s is source)
            own = Scope(settings_of(source.parameters), (*where, "parameters"))
            seen = self._seen(own, settled.method)
            value, _ = settled.value(parameter, (seen, *scopes), tensor, t)
            values.append(value)
        missing = parameter.optional and all(v is None for v in values)
        return None if missing else tuple(values)
