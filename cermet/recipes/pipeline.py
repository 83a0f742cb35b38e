"""The method of a recipe: the one that it names, or the steps of its pipeline as one."""

from __future__ import annotations

from collections.abc import Callable

from cermet.core.compose import compose, misplaced
from cermet.core.errors import MethodError, RecipeError
from cermet.core.registry import Method, find_method, find_step
from cermet.recipes.document import Document, Where
from cermet.recipes.schema import Recipe
from cermet.recipes.settings import Scope

__all__ = ["method_of", "steps_of"]


def method_of(recipe: Recipe, document: Document) -> Method:
    """The method of a recipe; MethodError or RecipeError, with file and line, where it has none."""
    if recipe.pipeline is None:
        assert recipe.merge_method is not None
        return _found(find_method, recipe.merge_method, document, ("merge_method",))
    if recipe.parameters:
        raise RecipeError(
            f"{document.at(('parameters',))}: the parameters of a pipeline stand beside its steps; "
            "move these there."
        )
    steps = [
        _found(find_step, step.name, document, ("pipeline", i))
        for i, step in enumerate(recipe.pipeline)
    ]
    wrong = misplaced(steps)
    if wrong is not None:
        raise RecipeError(f"{document.at(('pipeline', wrong[0]))}: {wrong[1]}.")
    return compose(steps)


def _found(find: Callable[[str], Method], name: str, document: Document, where: Where) -> Method:
    try:
        return find(name)
    except MethodError as error:
        raise MethodError(f"{document.at(where)}: {error}") from error


def steps_of(recipe: Recipe, method: Method) -> list[tuple[Method, tuple[Scope, ...]]]:
    """The steps of a recipe's pipeline with what stands beside them; else its one method."""
    if recipe.pipeline is None:
        return [(method, ())]
    return [
        (step, (Scope(written.parameters, ("pipeline", i, written.name)),))
        for i, (step, written) in enumerate(zip(method.steps, recipe.pipeline, strict=True))
    ]
