"""What a method that looks at the whole model takes once, and a recipe may not vary."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from cermet.core.errors import RecipeError
from cermet.core.registry import Method
from cermet.recipes.document import Document, Where
from cermet.recipes.parts import all_scopes, parts_of
from cermet.recipes.plan import Task
from cermet.recipes.schema import Recipe

__all__ = ["check_whole"]


def check_whole(recipe: Recipe, document: Document, method: Method, tasks: Sequence[Task]) -> None:
    """Refuse what varies from tensor to tensor where the method looks at all of them."""
    if not method.whole:
        return
    merged = [t for t in tasks if t.method is method]
    spelled = {p.argument: name for name, p in method.parameters.items()}
    for first, task in pairwise(merged):
        if len(task.sources) != len(first.sources):
            raise RecipeError(
                f"{document.at(_other_slice(recipe))}: '{method.name}' looks at the whole model, "
                f"so every tensor needs the same number of models; '{first.name}' has "
                f"{len(first.sources)}, '{task.name}' has {len(task.sources)}."
            )
        for argument in method.shared():
            if task.parameters[argument] != first.parameters[argument]:
                name = spelled[argument]
                place = document.at(_varying(recipe, method, name))
                raise RecipeError(
                    f"{place}: '{method.name}' takes one '{name}' for the whole model, but tensor "
                    f"'{task.name}' has another than '{first.name}'; give it without filter or "
                    "gradient."
                )


def _other_slice(recipe: Recipe) -> Where:
    """The first slice or module with another number of sources than the one before it."""
    parts = parts_of(recipe)
    differs = (b.where for a, b in pairwise(parts) if len(a.sources) != len(b.sources))
    return next(differs, parts[0].where)


def _varying(recipe: Recipe, method: Method, name: str) -> Where:
    """Where a parameter stands as a filter or a gradient, or else where it stands last.

    In a pipeline `trim.density` may be written so, or as `density` beside its step.
    """
    plain = name.rpartition(".")[2]
    places: list[tuple[bool, Where]] = [
        (isinstance(scope.settings[key], list | dict), (*scope.where, key))
        for scope, _, _ in all_scopes(recipe, method)
        for key in (name, plain)
        if key in scope.settings
    ]
    varied = [where for varies, where in places if varies]
    return varied[0] if varied else places[-1][1]
