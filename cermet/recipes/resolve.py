"""A recipe and the headers of its checkpoints -> a plan, or a clear refusal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from cermet.anatomy import Anatomy, survey, token_tensors
from cermet.checkpoints.dtypes import FLOATS, dtype_named
from cermet.checkpoints.reader import Checkpoint
from cermet.core.errors import MismatchError, RecipeError
from cermet.core.registry import Method
from cermet.core.types import Place, Role
from cermet.recipes.assembly import check_assembly
from cermet.recipes.config import Opened, output_config
from cermet.recipes.document import Document
from cermet.recipes.needs import Statistics
from cermet.recipes.numbers import Numbers
from cermet.recipes.parts import Part, all_scopes, check_recipe, parts_of
from cermet.recipes.plan import Named, Plan, Task
from cermet.recipes.schema import ModelRef, Recipe, Source
from cermet.recipes.settings import unmatched_filters
from cermet.recipes.whole import check_whole

__all__ = ["Opener", "resolve"]

Opener = Callable[[ModelRef], Checkpoint]
Differ = Callable[[ModelRef, ModelRef], str]


class _Resolver:
    def __init__(
        self, recipe: Recipe, document: Document, method: Method, opener: Opener, differ: Differ
    ) -> None:
        self.recipe, self.document, self.method, self.differ = recipe, document, method, differ
        self.models = tuple(recipe.references())
        self.checkpoints = tuple(opener(m) for m in self.models)
        self.index = {m: i for i, m in enumerate(self.models)}
        self.anatomies = [
            survey({n: t.shape for n, t in c.tensors.items()}, c.config) for c in self.checkpoints
        ]
        self.layers = [_by_layer(anatomy) for anatomy in self.anatomies]
        self.layered = [{n for names in layer.values() for n in names} for layer in self.layers]
        self.copies: list[tuple[Named, Named]] = []
        self.numbers = Numbers(recipe, document, method)
        self.statistics = Statistics(recipe, document, method, opener, len(self.models))
        named = dtype_named(recipe.dtype) if recipe.dtype else None
        self.compute = named
        self.out = dtype_named(recipe.out_dtype) if recipe.out_dtype else named
        donor = recipe.base_model or self.models[0]
        self.donor = self.index[donor]

    # -- which tensors --------------------------------------------------------

    def tasks(self) -> list[Task]:
        parts = parts_of(self.recipe)
        if self.recipe.models is not None:
            self._same_depth(parts[0])
            tasks = list(self._whole(parts[0]))
        else:
            tasks = list(self._stacked(parts))
        if not tasks:
            raise MismatchError(f"{self.document.origin}: the models hold no tensors.")
        check_whole(self.recipe, self.document, self.method, tasks)
        return tasks

    def _template(self, part: Part) -> int:
        """The model of a part that says which tensors there are."""
        named = part.base if part.base is not None else part.sources[0].model
        if all(s.model != named for s in part.sources):
            named = part.sources[0].model
        return self.index[named]

    def _depth(self, model: int) -> int:
        anatomy = self.anatomies[model]
        return anatomy.stacks[anatomy.main] if anatomy.main is not None else 0

    def _same_depth(self, part: Part) -> None:
        template = self._template(part)
        for source in part.sources:
            other = self.index[source.model]
            if self._depth(other) != self._depth(template):
                raise MismatchError(
                    f"'{source.model}' has {self._depth(other)} layers, "
                    f"'{self.models[template]}' has {self._depth(template)}; use slices to choose "
                    "layers."
                )

    def _whole(self, part: Part) -> Iterator[Task]:
        template = self._template(part)
        for name, place in self._places(part, template).items():
            sources = [(s, name) for s in part.sources]
            yield self._task(name, place, part, template, sources, _relative(place))

    def _places(self, part: Part, template: int) -> dict[str, Place]:
        """The tensors of a part and their places; of those that all models tie only the first."""
        found = dict(self.anatomies[template].places)
        for source in part.sources:
            model = self.index[source.model]
            for name in self._added(template, model, part):
                found.setdefault(name, self.anatomies[model].places[name])
        return {n: p for n, p in found.items() if not self._all_tie(part, template, n, p)}

    def _all_tie(self, part: Part, template: int, name: str, place: Place) -> bool:
        """Whether a tensor is, in every model that stores it, a copy of one that it is tied to."""
        is_head = place.role == Role.HEAD and not place.bias
        if self._original(template, name) is None or (
            name in self.checkpoints[template].tensors and not is_head
        ):
            return False
        copies = []
        for model in dict.fromkeys(self.index[s.model] for s in part.sources):
            if name in self.checkpoints[model].tensors:
                original = self._original(model, name)
                if original is None:
                    return False
                copies.append((Named(model, original), Named(model, name)))
        self.copies += copies
        return True

    def _original(self, model: int, name: str) -> str | None:
        """The stored tensor that a model says `name` is tied to, if it is another."""
        groups = (g for g in self.anatomies[model].ties if name in g[1:])
        return next((group[0] for group in groups), None)

    def _added(self, template: int, model: int, part: Part) -> list[str]:
        """Tensors that a model stores and the template does not: only a tied one may be."""
        known = self.checkpoints[template].tensors
        sliced = part.sources[0].layer_range is not None
        added = []
        for name, info in self.checkpoints[model].tensors.items():
            if name in known or self._buffer(model, name):
                continue
            if sliced and name in self.layered[model]:
                continue  # looked at where a slice asks for its layer
            if self._alias(template, name) is None:
                raise MismatchError(
                    f"Tensor '{name}' {list(info.shape)} of '{self.models[model]}' has no "
                    f"counterpart in '{self.models[template]}'; the models must have the same "
                    "architecture."
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
        first = part.sources[0].layer_range
        assert first is not None
        for source, where in zip(part.sources, part.wheres, strict=True):
            assert source.layer_range is not None
            start, stop = source.layer_range
            layers = self._depth(self.index[source.model])
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
        template = self._template(part)
        for name, place in self._places(part, template).items():
            inside_main = name in self.layered[template]
            here = "before" if place.layer is not None else place.position
            if not inside_main and here == position:
                sources = [(s, name) for s in part.sources]
                yield self._task(name, place, part, template, sources, 0.0)

    def _layer(self, part: Part, offset: int, layer: int, total: int, t: float) -> Iterator[Task]:
        template = self._template(part)
        anatomy = self.anatomies[template]
        own = next(s for s in part.sources if self.index[s.model] == template)
        assert own.layer_range is not None
        names = self.layers[template].get(own.layer_range[0] + offset, [])
        self._same_tensors(part, template, names, offset)
        for name in names:
            place = anatomy.places[name]
            sources = []
            for source in part.sources:
                assert source.layer_range is not None
                sources.append((source, anatomy.at_layer(name, source.layer_range[0] + offset)))
            out = anatomy.at_layer(name, layer)
            moved = replace(place, name=out, layer=layer, layers=total)
            yield self._task(out, moved, part, template, sources, t)

    def _same_tensors(self, part: Part, template: int, names: Sequence[str], offset: int) -> None:
        """Refuse a layer that holds, in another source, what the template's does not."""
        for source in part.sources:
            assert source.layer_range is not None
            model, layer = self.index[source.model], source.layer_range[0] + offset
            known = {self.anatomies[template].at_layer(name, layer) for name in names}
            for name in self.layers[model].get(layer, []):
                if name not in known and not self._buffer(model, name):
                    raise MismatchError(
                        f"Tensor '{name}' of '{source.model}' has no counterpart in the layer of "
                        f"'{self.models[template]}' that it is merged with; the layers must have "
                        "the same tensors."
                    )

    # -- one tensor -----------------------------------------------------------

    def _buffer(self, model: int, name: str) -> bool:
        info = self.checkpoints[model].tensors[name]
        place = self.anatomies[model].places[name]
        return info.dtype not in FLOATS or place.role == Role.BUFFER

    def _alias(self, model: int, name: str) -> str | None:
        """The name under which a model stores a tensor that it ties, if it does."""
        tensors = self.checkpoints[model].tensors
        if name in tensors:
            return name
        for group in self.anatomies[model].ties:
            if name in group:
                return next((other for other in group if other in tensors), None)
        return None

    def _named(self, ref: ModelRef, name: str, shape: tuple[int, ...], template: ModelRef) -> Named:
        model = self.index[ref]
        stored = self._alias(model, name)
        if stored is None:
            raise MismatchError(
                f"'{ref}' has no tensor '{name}'; the models must have the same architecture."
            )
        info = self.checkpoints[model].tensors[stored]
        if info.shape != shape:
            extra = ""
            tokens = token_tensors(self.anatomies[model])
            if tokens is not None and stored in tokens.names and info.shape[1:] == shape[1:]:
                extra = f" {self.differ(template, ref)}"
            raise MismatchError(
                f"Tensor '{name}' is {list(info.shape)} in '{ref}' but {list(shape)} in the "
                f"others; their shapes must be equal.{extra}"
            )
        if info.dtype not in FLOATS:
            raise MismatchError(
                f"Tensor '{name}' is {info.dtype} in '{ref}', which is no dtype of weights; a "
                "quantised model must be dequantised first."
            )
        return Named(model, stored)

    def _task(
        self,
        name: str,
        place: Place,
        part: Part,
        template: int,
        sources: Sequence[tuple[Source, str]],
        t: float,
    ) -> Task:
        ref = self.models[template]
        own = next((n for s, n in sources if s.model == ref), name)
        stored = self._alias(template, own)
        if stored is None:
            raise MismatchError(f"'{ref}' has no tensor '{own}'.")
        info = self.checkpoints[template].tensors[stored]
        if self._buffer(template, stored):
            held = [
                Named(self.index[s.model], n)
                for s, n in sources
                if n in self.checkpoints[self.index[s.model]].tensors
            ]
            for other in held:
                if self.checkpoints[other.model].tensors[other.tensor].shape != info.shape:
                    raise MismatchError(
                        f"The buffer '{other.tensor}' of '{self.models[other.model]}' has another "
                        f"shape than {list(info.shape)}; buffers are copied, so they must be equal."
                    )
            return Task(name, info.dtype, info.shape, place, None, tuple(held))
        dtype = self.out or info.dtype
        method, uses_base = self.method, self.method.base != "none" and part.base is not None
        experts = [(s, n) for s, n in sources if not (uses_base and s.model == part.base)]
        named = tuple(self._named(s.model, n, info.shape, ref) for s, n in experts)
        base = None
        if uses_base:
            assert part.base is not None
            given = next((n for s, n in sources if s.model == part.base), own)
            base = self._named(part.base, given, info.shape, ref)
        minus = tuple(
            self._named(s.delta_of, n, info.shape, ref) if s.delta_of is not None else None
            for s, n in experts
        )
        parameters = self.numbers.of(place, part, experts, t)
        wheres = {id(s): w for s, w in zip(part.sources, part.wheres, strict=True)}
        needs = self.statistics.of(
            [(s, wheres[id(s)]) for s, _ in experts], named, base, info.shape
        )
        if method.base == "first" and base is not None:
            named, base = (base, *named), None
        if self._verbatim(dtype, info.dtype, parameters):
            return Task(name, dtype, info.shape, place, None, named)
        return Task(
            name, dtype, info.shape, place, method, named, base,
            minus if any(m is not None for m in minus) else (), parameters, needs,
        )  # fmt: skip

    def _verbatim(self, out: str, stored: str, parameters: Mapping[str, Any]) -> bool:
        """Whether the bytes can be copied as they are."""
        plain = self.method.name == "passthrough" and parameters["scale"] is None
        return plain and out == stored and self.compute in (None, stored)


def _by_layer(anatomy: Anatomy) -> dict[int, list[str]]:
    """The tensors of each layer of the stack that recipes slice."""
    found: dict[int, list[str]] = {}
    for name, place in anatomy.places.items():
        if place.layer is not None and place.stack == anatomy.main:
            found.setdefault(place.layer, []).append(name)
    return found


def _relative(place: Place) -> float:
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
    tasks = resolver.tasks()
    names = {name for task in tasks for name in (task.name, *(n.tensor for n in task.inputs()))}
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
        config=output_config(recipe, known, donor, tasks, resolver.out),
        donor=resolver.donor,
        compute_dtype=resolver.compute,
        copies=tuple(dict.fromkeys(resolver.copies)),
        statistics=tuple(resolver.statistics.paths),
        warnings=tuple(warnings),
    )
    check_assembly(plan, document)
    return plan
