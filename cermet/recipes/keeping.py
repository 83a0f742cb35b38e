"""What a recipe leaves as the anchor has it: by `keep`, by `modules`, or for want of models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from cermet.core.errors import RecipeError
from cermet.core.registry import find_method, nearest
from cermet.core.types import Place, Role
from cermet.recipes.document import Document, Where
from cermet.recipes.fitting import Fitting, in_words
from cermet.recipes.parts import Part
from cermet.recipes.plan import Named, Task
from cermet.recipes.schema import ModelRef, Recipe

__all__ = ["Keeping"]


class Keeping:
    """Decides what is kept, and tells it."""

    def __init__(
        self, recipe: Recipe, document: Document, fitting: Fitting, models: Sequence[ModelRef]
    ) -> None:
        self._recipe, self._document, self._fitting = recipe, document, fitting
        self._anchor = str(models[fitting.anchor])
        self._roles: set[Role] = set()
        self._modules: set[str] = set()
        self._count: Counter[str] = Counter()
        self._lacking: dict[str, Counter[str]] = {}
        listed = [fitting.modules.named(name) for name in recipe.modules or ()]
        self._merges_main = recipe.modules is None or fitting.modules.main in listed
        for i, name in enumerate(recipe.keep or ()):
            self._read(name, ("keep", i))

    def _read(self, name: str, where: Where) -> None:
        modules = self._fitting.modules
        places = self._fitting.models[self._fitting.anchor].anatomy.places
        roles = sorted({str(p.role) for n, p in places.items() if not self._senses(n)})
        module = modules.named(name)
        tied = name == Role.HEAD and name not in roles and Role.EMBEDDING in roles
        if module is not None:
            self._modules.add(module)
        elif tied and Role.EMBEDDING not in (self._recipe.keep or ()):
            raise RecipeError(
                f"{self._document.at(where)}: '{self._anchor}' ties its head to its embedding, so "
                "that they are kept together; write embedding."
            )
        elif tied or name in roles:
            self._roles.add(Role(name))
        else:
            raise RecipeError(
                f"{self._document.at(where)}: '{self._anchor}' has no module or role '{name}' to "
                f"keep; its modules are {', '.join(modules.names)}, its roles {', '.join(roles)}."
                f"{nearest(name, [*modules.names, *roles])}"
            )

    def module(self, part: Part) -> str | None:
        """The module of the anchor that a part of the recipe is for; None for all of it.

        RecipeError where there is none of this name.
        """
        if part.module is None:
            return None
        modules = self._fitting.modules
        found = modules.named(part.module)
        if found is None:
            raise RecipeError(
                f"{self._document.at(('modules', part.module))}: '{self._anchor}' has no module "
                f"'{part.module}'; its modules are {', '.join(modules.names)}."
                f"{nearest(part.module, modules.names)}"
            )
        return found

    def stack(self, part: Part) -> str:
        """The stack of layers of a part's module; RecipeError where it cannot be sliced."""
        modules, anchor = self._fitting.modules, self._fitting.models[self._fitting.anchor]
        module = self.module(part)
        if module in (None, modules.main):
            return anchor.anatomy.main or ""
        stacks = modules.stacks.get(str(module), ())
        if len(stacks) != 1 and "slices" in part.where:
            raise RecipeError(
                f"{self._document.at(part.where)}: the {module} of '{self._anchor}' has "
                f"{len(stacks) or 'no'} stacks of layers, so it cannot be sliced; list its models."
            )
        return stacks[0] if stacks else ""

    def check_modules(self, parts: Sequence[Part]) -> None:
        """Refuse a module under two names, and sources that lack the module they are listed for."""
        seen: dict[str, str] = {}
        for part in parts:
            module = self.module(part)
            if module is None or part.module is None:
                continue
            if seen.setdefault(module, part.module) != part.module:
                raise RecipeError(
                    f"{self._document.at(('modules', part.module))}: '{part.module}' and "
                    f"'{seen[module]}' are the same module of '{self._anchor}'."
                )

    def check_holders(self, part: Part, index: dict[ModelRef, int]) -> None:
        """Refuse a source of a module that has no tensor of it, or none that fits."""
        module = self.module(part)
        if module is None:
            return
        for source, where in zip(part.sources, part.wheres, strict=True):
            held = self._fitting.models[index[source.model]].tensors
            if all(self._fitting.module_of(name) != module for name in held):
                base = source.model == part.base
                advice = (
                    "give the module a base_model that has one"
                    if base
                    else "take it out of the list"
                )
                raise RecipeError(
                    f"{self._document.at(where)}: '{source.model}' has no {module} like that of "
                    f"'{self._anchor}'; {advice}, or leave the module out to keep it as it is."
                )

    def _senses(self, name: str) -> bool:
        """Whether a tensor belongs to a tower or a projector, which are kept as a whole or not."""
        module = self._fitting.module_of(name)
        return module == "multi_modal_projector" or module.endswith("_tower")

    def wanted(self, name: str, place: Place) -> bool:
        """Whether the recipe says that a tensor is kept."""
        kept = place.role in self._roles and not self._senses(name)
        return kept or self._fitting.module_of(name) in self._modules

    def advice(self, name: str, place: Place) -> str:
        """How to leave alone a tensor whose shapes differ, in a model with towers."""
        if not self._fitting.modules.senses:
            return ""
        module, roles = self._fitting.module_of(name), "embedding, head"
        vocabulary = place.role in (Role.EMBEDDING, Role.HEAD)
        if module == self._fitting.modules.main and not vocabulary:
            return ""
        listed = roles if module == self._fitting.modules.main else module
        return f" To leave what '{self._anchor}' has, write `keep: [{listed}]`."

    def task(self, name: str, stored: str, place: Place, dtype: str) -> Task:
        """A copy of the anchor's tensor `stored`, cast where the output has another dtype."""
        fitted = self._fitting.models[self._fitting.anchor]
        info = fitted.tensors[stored]
        source = (Named(self._fitting.anchor, fitted.own[stored]),)
        module = self._fitting.module_of(name)
        main = module == self._fitting.modules.main and module not in self._modules
        partly = main and self._merges_main
        self._count[f"{place.role} of the {module}" if partly else module] += 1
        if dtype == info.dtype or place.role is Role.BUFFER:
            return Task(name, info.dtype, info.shape, place, None, source)
        cast = find_method("passthrough")
        return Task(name, dtype, info.shape, place, cast, source, parameters={"scale": None})

    def without(self, name: str, lacking: Sequence[ModelRef]) -> None:
        """Take note of a tensor that is merged without some models, which lack it."""
        for model in lacking:
            self._lacking.setdefault(str(model), Counter())[self._fitting.module_of(name)] += 1

    def notes(self) -> tuple[str, ...]:
        """What is merged without some of the models, and what is kept, once all tasks are made."""
        found = [
            f"Merged without '{model}', which has none that fits: {in_words(counts)}."
            for model, counts in self._lacking.items()
        ]
        if self._count:
            found.append(f"Kept as '{self._anchor}' has it: {in_words(self._count)}.")
        return tuple(found)
