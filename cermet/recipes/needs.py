"""The statistics that a recipe gives: those that its method takes, in files that fit the models."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence

from cermet.checkpoints.dtypes import FLOATS
from cermet.checkpoints.reader import Checkpoint
from cermet.core.errors import FormatError, InputError, RecipeError
from cermet.core.needs import Need
from cermet.core.registry import Method
from cermet.core.types import Place
from cermet.recipes.document import Document, Where
from cermet.recipes.plan import Named
from cermet.recipes.schema import ModelRef, Recipe, Source

__all__ = ["Statistics", "check_needs"]


def check_needs(
    recipe: Recipe,
    document: Document,
    method: Method,
    sources: Iterable[tuple[Source, Where, bool]],
) -> None:
    """Refuse statistics that the method does not take, and those that it lacks.

    `sources`: every source of the recipe, where it stands, and whether it is a base that is
    subtracted instead of merged.
    """
    for where, per_model in _levels(recipe):
        _check_level(document, method, where, per_model=per_model)
    for source, where, is_base in sources:
        if is_base and source.needs:
            raise RecipeError(
                f"{document.at((*where, 'needs'))}: '{source.model}' is the base, which is not "
                "merged; statistics stand beside the other models or in the recipe."
            )
        for need in () if is_base else method.needs:
            _path(recipe, document, method, need, source, where)


def _levels(recipe: Recipe) -> Iterator[tuple[Where, bool]]:
    """Where statistics may stand, and whether they belong to one model there."""
    if recipe.needs:
        yield ("needs",), False
    for block in recipe.blocks():
        for i, source in enumerate(block.models or ()):
            if source.needs:
                yield (*block.where, "models", i, "needs"), True
        for i, part in enumerate(block.slices or ()):
            for j, source in enumerate(part.sources):
                if source.needs:
                    yield (*block.where, "slices", i, "sources", j, "needs"), True


def _check_level(document: Document, method: Method, where: Where, *, per_model: bool) -> None:
    known = {need.name: need for need in method.needs}
    given = document.data
    for step in where:
        given = given[step]
    for name in given:
        place = document.at((*where, name))
        if not known:
            raise RecipeError(f"{place}: '{method.name}' needs no statistics, so no '{name}'.")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise RecipeError(
                f"{place}: '{method.name}' takes no statistic '{name}' (it takes "
                f"{', '.join(known)}).{hint}"
            )
        if per_model and not known[name].per_model:
            raise RecipeError(
                f"{place}: '{method.name}' takes the statistic '{name}' once for all models; move "
                "it to the needs of the recipe."
            )


def _path(
    recipe: Recipe, document: Document, method: Method, need: Need, source: Source, where: Where
) -> tuple[str, Where]:
    """The file of a statistic for one model, and where the recipe names it."""
    if need.per_model and need.name in (source.needs or {}):
        return (source.needs or {})[need.name], (*where, "needs", need.name)
    if need.name in (recipe.needs or {}):
        return (recipe.needs or {})[need.name], ("needs", need.name)
    level = "of the model or of the recipe" if need.per_model else "of the recipe"
    raise RecipeError(
        f"{document.at(where if need.per_model else ())}: '{method.name}' needs the statistic "
        f"'{need.name}' ({need.about}) for '{source.model}'; name its file under the needs {level}."
    )


def _like(need: Need) -> str:
    return "a row and a column for each of its inputs" if need.square else "like the model"


class Statistics:
    """The files of a recipe's statistics, opened once each.

    Attributes
    ----------
    paths: as the recipe names them. checkpoints: the same files, opened; `Named.model` of
        the first is `first`.
    """

    def __init__(
        self,
        recipe: Recipe,
        document: Document,
        method: Method,
        opener: Callable[[ModelRef], Checkpoint],
        first: int,
    ) -> None:
        self.recipe, self.document, self.method = recipe, document, method
        self.paths: list[str] = []
        self.checkpoints: list[Checkpoint] = []
        self._opener, self._first = opener, first

    def of(
        self, sources: Sequence[tuple[Source, Where]], named: Sequence[Named], base: Named | None,
        place: Place, *, plain: bool,
    ) -> dict[str, tuple[Named, ...]]:  # fmt: skip
        """The tensors of every statistic for one output tensor, made of `named` and `base`.

        `plain`: the tensor is added up, and not what the maths is for.
        """
        found = {}
        for need in self.method.needs:
            if not need.wanted(plain=plain):
                continue
            shape = need.shape(place)
            wanted = [n.tensor for n in named]
            given = list(sources)
            if not need.per_model:
                wanted, given = [(base or named[0]).tensor], given[:1]
            found[need.name] = tuple(
                self._tensor(need, source, where, tensor, shape)
                for (source, where), tensor in zip(given, wanted, strict=True)
            )
        return found

    def _tensor(
        self, need: Need, source: Source, where: Where, tensor: str, shape: tuple[int, ...]
    ) -> Named:
        path, place = _path(self.recipe, self.document, self.method, need, source, where)
        index = self._index(path, place)
        info = self.checkpoints[index].tensors.get(tensor)
        if info is None or info.shape != shape or info.dtype not in FLOATS:
            held = "missing" if info is None else f"{info.dtype} {list(info.shape)}"
            raise RecipeError(
                f"{self.document.at(place)}: tensor '{tensor}' is {held} in the statistics "
                f"'{path}'; '{need.name}' must hold numbers {list(shape)} for it, {_like(need)}."
            )
        return Named(self._first + index, tensor)

    def _index(self, path: str, place: Where) -> int:
        """The position of a file, opened if it is new."""
        if path not in self.paths:
            try:
                opened = self._opener(ModelRef(path=path))
            except InputError as error:
                raise RecipeError(
                    f"{self.document.at(place)}: the statistics '{path}' cannot be read: {error}"
                ) from error
            except FormatError as error:
                raise FormatError(f"{self.document.at(place)}: {error}") from error
            self.paths.append(path)
            self.checkpoints.append(opened)
        return self.paths.index(path)
