"""A recipe and the headers of its checkpoints -> a plan, or a clear refusal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby

from cermet.checkpoints.reader import Checkpoint
from cermet.core.errors import MismatchError, RecipeError
from cermet.core.registry import Method
from cermet.core.types import Place, Role
from cermet.recipes.assembly import check_assembly
from cermet.recipes.config import Opened, output_config
from cermet.recipes.document import Document
from cermet.recipes.fitting import fit
from cermet.recipes.keeping import Keeping
from cermet.recipes.making import Differ, Making
from cermet.recipes.needs import Statistics
from cermet.recipes.numbers import Numbers
from cermet.recipes.parts import Part, all_scopes, check_recipe, parts_of
from cermet.recipes.plan import Named, Plan, Task
from cermet.recipes.schema import ModelRef, Recipe, Source
from cermet.recipes.settings import unmatched_filters
from cermet.recipes.whole import check_whole

__all__ = ["Opener", "gradient_depth", "resolve"]

Opener = Callable[[ModelRef], Checkpoint]


class _Resolver:
    def __init__(
        self, recipe: Recipe, document: Document, method: Method, opener: Opener, differ: Differ
    ) -> None:
        self.recipe, self.document, self.method = recipe, document, method
        self.models = tuple(recipe.references())
        self.checkpoints = tuple(opener(m) for m in self.models)
        self.index = {m: i for i, m in enumerate(self.models)}
        self.fitting = fit(recipe, self.models, self.checkpoints)
        self.fitted = self.fitting.models
        self.keeping = Keeping(recipe, document, self.fitting, self.models)
        self.anatomies = [fitted.anatomy for fitted in self.fitted]
        self.copies: list[tuple[Named, Named]] = []
        self.statistics = Statistics(recipe, document, method, opener, len(self.models))
        self.donor = self.fitting.anchor
        self.making = Making(
            recipe, method, self.models, self.checkpoints, self.fitting, self.keeping,
            Numbers(recipe, document, method), self.statistics, differ,
        )  # fmt: skip

    # -- which tensors --------------------------------------------------------

    def tasks(self) -> list[Task]:
        parts = parts_of(self.recipe)
        self.keeping.check_modules(parts)
        tasks: list[Task] = []
        for _, group in groupby(parts, key=lambda part: part.module):
            own = list(group)
            sliced = own[0].sources[0].layer_range is not None
            tasks += self._stacked(own) if sliced else self._whole(own[0])
        tasks += self._unlisted(parts)
        if not tasks:
            raise MismatchError(f"{self.document.origin}: the models hold no tensors.")
        check_whole(self.recipe, self.document, self.method, tasks)
        return tasks

    def _unlisted(self, parts: Sequence[Part]) -> Iterator[Task]:
        """The tensors of the modules that a recipe does not list, as the anchor has them."""
        modules = {self.keeping.module(part) for part in parts}
        if None not in modules:
            for name, place in self.anatomies[self.donor].places.items():
                tied = place.role == Role.HEAD and self.fitting.original(self.donor, name)
                if self.fitting.module_of(name) not in modules and not tied:
                    yield self.making.kept(name, place)

    def _template(self, part: Part) -> int:
        """The model of a part that says which tensors there are."""
        if any(self.fitted[self.index[s.model]].partial for s in part.sources):
            return self.donor
        named = part.base if part.base is not None else part.sources[0].model
        if all(s.model != named for s in part.sources):
            named = part.sources[0].model
        return self.index[named]

    def _same_depth(self, part: Part) -> None:
        template, stack = self._template(part), self.keeping.stack(part)
        layers = self.fitting.depth(template, stack)
        for source in part.sources:
            depth = self.fitting.depth(self.index[source.model], stack)
            if depth not in (0, layers):  # what has none is told by what it lacks
                raise MismatchError(
                    f"'{source.model}' has {depth} layers, '{self.models[template]}' has "
                    f"{layers}; use slices to choose layers."
                )

    def _whole(self, part: Part) -> Iterator[Task]:
        self.keeping.check_holders(part, self.index)
        self._same_depth(part)
        template = self._template(part)
        for name, place in self._places(part, template).items():
            yield self._one(name, place, part, template, gradient_depth(place))

    def _one(self, name: str, place: Place, part: Part, template: int, t: float) -> Task:
        """A tensor that has the same name in all sources: merged over those that have it, or kept.

        It is kept where the recipe says so, where a base that is subtracted lacks it, where a
        method without a base would be given only some of its models, or too few with one.
        """
        holders = [s for s in part.sources if self._holds(s, name)]
        based = self.method.base != "none" and part.base is not None
        lacking = len(holders) < len(part.sources)
        experts = sum(not (based and s.model == part.base) for s in holders)
        base = not based or any(s.model == part.base for s in holders)
        few = lacking and (not based or not base or experts < self.method.models[0])
        if self.keeping.wanted(name, place) or few:
            return self.making.kept(name, place)
        self.keeping.without(name, [s.model for s in part.sources if s not in holders])
        return self.making.task(name, place, part, template, [(s, name) for s in holders], t)

    def _holds(self, source: Source, name: str) -> bool:
        """Whether a source has a tensor; one that may not lack any is refused later if it does."""
        refs = [source.model, *([source.delta_of] if source.delta_of is not None else [])]
        partial = [self.index[ref] for ref in refs if self.fitted[self.index[ref]].partial]
        return all(self.fitting.alias(model, name) is not None for model in partial)

    def _places(self, part: Part, template: int) -> dict[str, Place]:
        """The tensors of a part and their places; of those that all models tie only the first."""
        module = self.keeping.module(part)
        found = dict(self.anatomies[template].places)
        for source in part.sources:
            model = self.index[source.model]
            for name in self._added(template, model, part):
                place = self.anatomies[model].places[name]
                if not self.keeping.wanted(name, place):
                    found.setdefault(name, place)
        own = {n: p for n, p in found.items() if module in (None, self.fitting.module_of(n))}
        return {n: p for n, p in own.items() if not self._all_tie(part, template, n, p)}

    def _all_tie(self, part: Part, template: int, name: str, place: Place) -> bool:
        """Whether a tensor is, in every model that stores it, a copy of one that it is tied to."""
        is_head = place.role == Role.HEAD and not place.bias
        if self.fitting.original(template, name) is None or (
            name in self.fitted[template].tensors and not is_head
        ):
            return False
        copies, stored = [], self.fitting.stored
        for model in dict.fromkeys(self.index[s.model] for s in part.sources):
            if name in self.fitted[model].tensors:
                original = self.fitting.original(model, name)
                if original is None:
                    return False
                copies.append((stored(model, original), stored(model, name)))
        self.copies += copies
        return True

    def _added(self, template: int, model: int, part: Part) -> list[str]:
        """Tensors that a model stores and the template does not: only a tied one may be."""
        known = self.fitted[template].tensors
        sliced = part.sources[0].layer_range is not None
        stack, module = self.keeping.stack(part), self.keeping.module(part)
        added = []
        for name, info in self.fitted[model].tensors.items():
            if name in known or self.fitting.buffer(model, name):
                continue
            if sliced and self.anatomies[model].places[name].stack == stack:
                continue  # looked at where a slice asks for its layer
            if module not in (None, self.fitting.module_of(name)):
                continue
            if self.fitting.alias(template, name) is None:
                raise MismatchError(
                    f"Tensor '{self.fitted[model].own[name]}' {list(info.shape)} of "
                    f"'{self.models[model]}' has no counterpart in '{self.models[template]}'; the "
                    "models must have the same architecture."
                )
            added.append(name)
        return added

    def _stacked(self, parts: Sequence[Part]) -> Iterator[Task]:
        ranges = [self._ranges(part) for part in parts]
        yield from self._outside(parts[0], "before")
        position = 0
        total = sum(stop - start for start, stop in ranges)
        for part, (start, stop) in zip(parts, ranges, strict=True):
            count = stop - start
            for offset in range(count):
                t = offset / (count - 1) if count > 1 else 1.0
                tasks = list(self._layer(part, offset, position, total, t))
                if not tasks:
                    model = self.models[self._template(part)]
                    raise MismatchError(f"'{model}' has no tensors for layer {position}.")
                yield from tasks
                position += 1
        yield from self._outside(parts[-1], "after")

    def _ranges(self, part: Part) -> tuple[int, int]:
        """The layers of the first source, once those of every source are found to fit."""
        first, stack = part.sources[0].layer_range, self.keeping.stack(part)
        assert first is not None
        for source, where in zip(part.sources, part.wheres, strict=True):
            assert source.layer_range is not None
            start, stop = source.layer_range
            layers = self.fitting.depth(self.index[source.model], stack)
            place = self.document.at((*where, "layer_range"))
            if not 0 <= start < stop <= layers:
                raise RecipeError(
                    f"{place}: layer_range [{start}, {stop}] is not inside the {layers} layers "
                    f"of '{source.model}' (from 0 up to but not including {layers})."
                )
            if stop - start != first[1] - first[0]:
                raise RecipeError(
                    f"{place}: this source has {stop - start} layers, the first of the slice "
                    f"{first[1] - first[0]}; they must be equal."
                )
        return first

    def _outside(self, part: Part, position: str) -> Iterator[Task]:
        self.keeping.check_holders(part, self.index)
        template, stack = self._template(part), self.keeping.stack(part)
        for name, place in self._places(part, template).items():
            inside = place.layer is not None and place.stack == stack
            here = "before" if place.layer is not None else place.position
            if not inside and here == position:
                yield self._one(name, place, part, template, 0.0)

    def _layer(self, part: Part, offset: int, layer: int, total: int, t: float) -> Iterator[Task]:
        template = self._template(part)
        own = next((s for s in part.sources if self.index[s.model] == template), part.sources[0])
        template, stack = self.index[own.model], self.keeping.stack(part)
        anatomy = self.anatomies[template]
        assert own.layer_range is not None
        names = self.fitting.layers(template, stack).get(own.layer_range[0] + offset, [])
        self._same_tensors(part, template, names, offset)
        for name in names:
            place = anatomy.places[name]
            sources = []
            for source in part.sources:
                assert source.layer_range is not None
                sources.append((source, anatomy.at_layer(name, source.layer_range[0] + offset)))
            out = anatomy.at_layer(name, layer)
            moved = replace(place, name=out, layer=layer, layers=total)
            if self.keeping.wanted(name, place):
                raise RecipeError(
                    f"{self.document.at(('keep',))}: '{out}' stands in layers that are sliced, so "
                    "it cannot be kept; give these slices one source."
                )
            yield self.making.task(out, moved, part, template, sources, t)

    def _same_tensors(self, part: Part, template: int, names: Sequence[str], offset: int) -> None:
        """Refuse a layer that holds, in another source, what the template's does not."""
        for source in part.sources:
            assert source.layer_range is not None
            model, layer = self.index[source.model], source.layer_range[0] + offset
            known = {self.anatomies[template].at_layer(name, layer) for name in names}
            for name in self.fitting.layers(model, self.keeping.stack(part)).get(layer, []):
                if name not in known and not self.fitting.buffer(model, name):
                    raise MismatchError(
                        f"Tensor '{name}' of '{source.model}' has no counterpart in the layer of "
                        f"'{self.models[template]}' that it is merged with; the layers must have "
                        "the same tensors."
                    )


def gradient_depth(place: Place) -> float:
    """Depth at which a gradient is read: by layer; at the first value outside of layers."""
    if place.layer is None:
        return 0.0
    return place.layer / (place.layers - 1) if place.layers > 1 else 1.0


def resolve(
    recipe: Recipe, document: Document, opener: Opener, differ: Differ, *, compat: bool = False
) -> Plan:
    """The plan of a recipe; refuses everything that headers can reveal.

    `opener` opens a model that the recipe names, `differ` says how the vocabularies of two
    differ. Raises RecipeError, MethodError, MismatchError, FormatError.
    """
    method, warnings = check_recipe(recipe, document, compat=compat)
    resolver = _Resolver(recipe, document, method, opener, differ)
    making, tasks = resolver.making, resolver.tasks()
    spelled = resolver.fitting.spelled()
    read = (spelled.get(n, n.tensor) for task in tasks for n in task.inputs())
    names = {*(task.name for task in tasks), *read}
    scopes = [scope for scope, _, _ in all_scopes(recipe, method)]
    for sentence in unmatched_filters(document, scopes, names):
        if not compat:
            raise RecipeError(sentence)
        warnings.append(sentence)
    opened = zip(resolver.models, resolver.checkpoints, resolver.anatomies, strict=True)
    known = {model: Opened(model, c, a) for model, c, a in opened}
    donor = known[resolver.models[resolver.donor]]
    plan = Plan(
        recipe=recipe,
        method=method,
        models=resolver.models,
        checkpoints=(*resolver.checkpoints, *resolver.statistics.checkpoints),
        tasks=tuple(tasks),
        config=output_config(recipe, known, donor, tasks, making.out, resolver.fitting.modules),
        donor=resolver.donor,
        compute_dtype=making.compute,
        copies=tuple(dict.fromkeys(resolver.copies)),
        statistics=tuple(resolver.statistics.paths),
        warnings=tuple(warnings),
        notes=(*resolver.fitting.notes, *resolver.keeping.notes()),
    )
    check_assembly(plan, document)
    return plan
