"""The anchor: which model of a recipe gives the output its form."""

from __future__ import annotations

from collections.abc import Sequence

from cermet.anatomy import Modules
from cermet.recipes.schema import ModelRef, Recipe

__all__ = ["anchor_of"]


def anchor_of(recipe: Recipe, models: Sequence[ModelRef], modules: Sequence[Modules]) -> int:
    """The position of the model that gives the output its form, config and files.

    It is the base, or the first model without one; but where it takes text alone, and a model
    that is merged sees or hears, it is the first of these. modules: of each model.
    """
    first = models.index(recipe.base_model or models[0])
    if modules[first].senses:
        return first
    merged = {s.model for block in recipe.blocks() for s in block.sources()}
    seeing = (i for i, m in enumerate(models) if m in merged and modules[i].senses)
    return next(seeing, first)
