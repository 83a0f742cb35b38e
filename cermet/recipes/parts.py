"""The parts of a recipe, and what can be refused without looking at a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cermet.checkpoints.dtypes import dtype_named
from cermet.core.errors import InputError, RecipeError
from cermet.core.registry import Method
from cermet.recipes.document import Document, Where
from cermet.recipes.needs import check_needs
from cermet.recipes.pipeline import method_of, steps_of
from cermet.recipes.schema import Block, ModelRef, Recipe, Settings, Source
from cermet.recipes.settings import Scope, check_names, check_values

__all__ = ["Part", "all_scopes", "check_recipe", "parts_of", "settings_of"]


@dataclass(frozen=True)
class Part:
    """Some layers of the output: its sources with their layers, and its parameters."""

    sources: tuple[Source, ...]
    wheres: tuple[Where, ...]
    base: ModelRef | None
    scopes: tuple[Scope, ...]  # shared: slice, then module, then recipe
    where: Where
    module: str | None = None  # as the recipe calls it


def check_recipe(
    recipe: Recipe, document: Document, *, compat: bool = False, method: Method | None = None
) -> tuple[Method, list[str]]:
    """Everything that can be refused without looking at a checkpoint: method, names, counts.

    `method`: the recipe's own by default.
    """
    method = method or method_of(recipe, document)
    for key in ("dtype", "out_dtype"):
        value = getattr(recipe, key)
        if value is not None:
            try:
                dtype_named(value)
            except InputError as error:
                raise RecipeError(f"{document.at((key,))}: {error}") from error
    warnings = []
    for scope, taker, per_model in all_scopes(recipe, method):
        problem = check_names(document, taker, scope, per_model=per_model)
        if problem is not None:
            if not compat:
                raise RecipeError(problem)
            warnings.append(problem)
        check_values(document, taker, scope)
    parts = parts_of(recipe)
    for part in parts:
        _check_part(part, method, document)
    sources = [
        (source, where, method.base != "none" and source.model == part.base)
        for part in parts
        for source, where in zip(part.sources, part.wheres, strict=True)
    ]
    check_needs(recipe, document, method, sources)
    if method.experimental:
        warnings.append(f"'{method.name}' is experimental: {method.experimental}")
    return method, warnings


def settings_of(given: Settings | None) -> Settings:
    """Parameters as written, none where nothing is written."""
    return given or {}


def all_scopes(recipe: Recipe, method: Method) -> Iterator[tuple[Scope, Method, bool]]:
    """Parameters at every level of a recipe, whose they are, and whether they are one model's."""
    yield Scope(settings_of(recipe.parameters), ("parameters",)), method, False
    for step, own in steps_of(recipe, method):
        for scope in own:
            yield scope, step, False
    for block in recipe.blocks():
        at = block.where
        if block.module is not None:
            yield Scope(settings_of(block.parameters), (*at, "parameters")), method, False
        for i, source in enumerate(block.models or ()):
            where: Where = (*at, "models", i, "parameters")
            yield Scope(settings_of(source.parameters), where), method, True
        for i, part in enumerate(block.slices or ()):
            where = (*at, "slices", i, "parameters")
            yield Scope(settings_of(part.parameters), where), method, False
            for j, source in enumerate(part.sources):
                where = (*at, "slices", i, "sources", j, "parameters")
                yield Scope(settings_of(source.parameters), where), method, True


def parts_of(recipe: Recipe) -> list[Part]:
    """The slices of a recipe or module; one part where it lists models, its base appended."""
    top = Scope(settings_of(recipe.parameters), ("parameters",))
    return [part for block in recipe.blocks() for part in _parts(block, top)]


def _parts(block: Block, top: Scope) -> Iterator[Part]:
    scopes: tuple[Scope, ...] = (top,)
    if block.module is not None:
        scopes = (Scope(settings_of(block.parameters), (*block.where, "parameters")), top)
    if block.models is not None:
        sources = list(block.models)
        base = block.base
        wheres: list[Where] = [(*block.where, "models", i) for i in range(len(sources))]
        if base is not None and all(s.model != base for s in sources):
            sources.append(Source(model=base))
            wheres.append((*block.where, "base_model"))
        where = (*block.where, "models")
        yield Part(tuple(sources), tuple(wheres), base, scopes, where, block.module)
    for i, part in enumerate(block.slices or ()):
        at: Where = (*block.where, "slices", i)
        yield Part(
            tuple(part.sources),
            tuple((*at, "sources", j) for j in range(len(part.sources))),
            part.base_model or block.base,
            (Scope(settings_of(part.parameters), (*at, "parameters")), *scopes),
            at,
            block.module,
        )


def _check_part(part: Part, method: Method, document: Document) -> None:
    """Refuse a wrong number of models, and a base that is missing or not among the sources."""
    place = document.at(part.where)
    listed = [s.model for s in part.sources]
    if method.base in ("required", "first") and part.base is None:
        raise RecipeError(f"{place}: '{method.name}' needs a base_model.")
    uses_base = method.base != "none" and part.base is not None
    if uses_base and "slices" in part.where and part.base not in listed:
        raise RecipeError(
            f"{place}: the base_model '{part.base}' is not among the sources of this slice; list "
            "it with its layer_range."
        )
    count = sum(m != part.base for m in listed) if uses_base else len(listed)
    least, most = method.models
    if count < least or (most is not None and count > most):
        wanted = f"{least}" if most == least else f"at least {least}"
        beside = " beside its base" if method.base in ("required", "first") else ""
        raise RecipeError(
            f"{place}: '{method.name}' takes {wanted} "
            f"model{'s' if wanted != '1' else ''}{beside}, not {count}."
        )
    for source, where in zip(part.sources, part.wheres, strict=True):
        if source.delta_of is not None and method.on != "deltas":
            raise RecipeError(
                f"{document.at(where)}: '{method.name}' works on weights, so delta_of has no use."
            )
