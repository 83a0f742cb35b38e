"""A recipe whose models are LoRA adapters -> a plan, module by module, or a clear refusal."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cermet.anatomy import survey
from cermet.checkpoints.adapters import Adapted, Adapter
from cermet.checkpoints.dtypes import NAMES, SIZES, dtype_named
from cermet.checkpoints.origin import Origin
from cermet.core.errors import MethodError, MismatchError, RecipeError
from cermet.core.parameters import Parameter
from cermet.core.registry import Method, call
from cermet.core.types import Place
from cermet.methods.adapters import given_rank
from cermet.recipes.document import Document
from cermet.recipes.numbers import Numbers
from cermet.recipes.parts import all_scopes, check_recipe, parts_of
from cermet.recipes.pipeline import method_of
from cermet.recipes.plan import Named, Task
from cermet.recipes.resolve import gradient_depth
from cermet.recipes.schema import ModelRef, Recipe
from cermet.recipes.settings import unmatched_filters
from cermet.recipes.whole import check_whole

__all__ = ["AdapterPlan", "AdapterTask", "Whole", "check_adapters", "resolve_adapters"]

AdapterOpener = Callable[[ModelRef], Adapter]

_RANK = Parameter("rank", "rank", False, int, None, True, (1, None))
"""What a recipe of adapters may say to every method on deltas: the rank of the result."""

_WITHOUT = (
    "slices", "modules", "keep", "needs", "dtype", "tokenizer_source", "tokenizer", "chat_template",
)  # fmt: skip
"""Keys of a recipe that mean nothing for adapters."""


@dataclass(frozen=True)
class AdapterTask:
    """One module of the output.

    Attributes
    ----------
    place: of its weight, seen as [out, in].
    members: numbers of the adapters that the method is given; of a method on deltas all of them,
        since the delta of one that lacks the module is zero.
    like: what the first adapter that has it has for it.
    rank: of the result. dtype: of the result, spelled as in safetensors.
    core: what is left of the delta's shape in the space that the deltas of all adapters span.
    parameters: by argument of the method, those for each model in order of the members.
    bias: whether the result has a bias of its b.
    """

    module: str
    place: Place
    members: tuple[int, ...]
    like: Adapted
    rank: int
    dtype: str
    parameters: Mapping[str, Any]
    bias: bool
    core: tuple[int, int]

    @property
    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of the result's a and b, as PEFT stores them."""
        a, b = self.like.a.shape, self.like.b.shape
        return (self.rank, *a[1:]), (b[0], self.rank, *b[2:])

    @property
    def nbytes(self) -> int:
        """Bytes of the result's a and b, and of its bias."""
        count = sum(map(math.prod, self.shapes)) + (self.like.b.shape[0] if self.bias else 0)
        return count * SIZES[self.dtype]

    def of_delta(self, method: Method, *, bias: bool = False) -> Task:
        """The work of a method on deltas: of the weight's deltas, or of those of a bias of b."""
        name = f"{self.module}.bias" if bias else self.place.name
        shape = self.like.shape[:1] if bias else self.like.shape
        place = replace(self.place, name=name, shape=shape, bias=bias)
        sources = tuple(Named(i, name) for i in self.members)
        return Task(name, "F32", shape, place, method, sources, parameters=self.parameters)


@dataclass(frozen=True)
class Whole:
    """A tensor that takes the place of one of the base's; owners: the adapters that hold it."""

    name: str
    owners: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class AdapterPlan:
    """Everything that a merge of adapters will do.

    base: the base that the output names. adapters: opened, in the order of the models.
    notes: what is taken whole from one of them, in sentences. origins: the adapters' folders,
        with what their cards state; none in memory.
    """

    recipe: Recipe
    method: Method
    models: tuple[ModelRef, ...]
    adapters: tuple[Adapter, ...]
    tasks: tuple[AdapterTask, ...]
    whole: tuple[Whole, ...]
    base: str
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    origins: tuple[Origin, ...] = ()

    @property
    def in_span(self) -> bool:
        """Whether the method sees the deltas in the space that they span, not whole."""
        return self.method.on == "deltas" and "equivariant" in self.method.properties

    def bytes_written(self) -> int:
        """Bytes of all output tensors."""
        kept = sum(math.prod(w.shape) * SIZES[w.dtype] for w in self.whole)
        return sum(task.nbytes for task in self.tasks) + kept


def check_adapters(recipe: Recipe, document: Document, *, compat: bool) -> tuple[Method, list[str]]:
    """What can be refused before an adapter is opened; the method as it works on adapters.

    Raises RecipeError and MethodError, with file and line.
    """
    for key in _WITHOUT:
        if getattr(recipe, key) is not None:
            hint = "; write out_dtype for that of the output" if key == "dtype" else ""
            raise RecipeError(f"{document.at((key,))}: '{key}' has no meaning for adapters{hint}.")
    if recipe.pipeline is not None:
        raise RecipeError(
            f"{document.at(('pipeline',))}: adapters are merged by one method, not by a pipeline "
            "yet; write merge_method."
        )
    for i, source in enumerate(recipe.models or ()):
        place = document.at(("models", i))
        if source.model.lora is not None:
            raise RecipeError(
                f"{place}: '{source.model}' is a model with an adapter on it; name the adapter "
                f"alone ('{source.model.lora}') to merge it as an adapter."
            )
        if source.delta_of is not None or source.needs is not None:
            raise RecipeError(f"{place}: delta_of and needs have no meaning for adapters.")
    method = _on_adapters(method_of(recipe, document), document)
    return check_recipe(_without_base(recipe), document, compat=compat, method=method)


def _without_base(recipe: Recipe) -> Recipe:
    """The recipe for the rooms that would take its base for a model to be opened."""
    return recipe.model_copy(update={"base_model": None})


def _on_adapters(method: Method, document: Document) -> Method:
    """A method on deltas as one that needs no base and takes a rank; one on factors as it is."""
    if method.on == "factors":
        return method
    place, name = document.at(("merge_method",)), method.name
    if method.on == "weights":
        raise RecipeError(
            f"{place}: '{name}' works on weights, and adapters are deltas; use a method on "
            "deltas, such as task_arithmetic or ties, or one on adapters, such as lora_sum."
        )
    if method.needs or method.parts or "rank" in method.parameters:
        reason = "needs statistics" if method.needs else "keeps parts of its experts"
        raise RecipeError(f"{place}: '{name}' {reason}, so it cannot merge adapters.")
    return replace(method, base="none", parameters={**method.parameters, "rank": _RANK})


def resolve_adapters(
    recipe: Recipe, document: Document, opener: AdapterOpener, *, compat: bool = False
) -> AdapterPlan:
    """The plan of a recipe of adapters; refuses everything that their headers can reveal.

    Raises RecipeError, MethodError, MismatchError, FormatError.
    """
    method, warnings = check_adapters(recipe, document, compat=compat)
    sources = recipe.models or []
    models = tuple(source.model for source in sources)
    opened = {model: opener(model) for model in dict.fromkeys(models)}
    adapters = tuple(opened[model] for model in models)
    base, told = _base(recipe, adapters)
    tasks = tuple(_tasks(_without_base(recipe), document, method, adapters))
    if method.on == "deltas":
        check_whole(recipe, document, method, [t.of_delta(method) for t in tasks])
    whole = tuple(_whole(adapters))
    scopes = [scope for scope, _, _ in all_scopes(recipe, method)]
    for sentence in unmatched_filters(document, scopes, {t.place.name for t in tasks}):
        if not compat:
            raise RecipeError(sentence)
        warnings.append(sentence)
    warnings += told
    warnings += [
        f"'{w.name}' stands whole in {len(w.owners)} adapters; the output holds their mean."
        for w in whole
        if len(w.owners) > 1
    ]
    notes = tuple(
        f"'{w.name}' stands whole in '{adapters[w.owners[0]].path}' alone, and is taken as it is."
        for w in whole
        if len(w.owners) == 1 < len(adapters)
    )
    return AdapterPlan(recipe, method, models, adapters, tasks, whole, base, tuple(warnings), notes)


def _base(recipe: Recipe, adapters: Sequence[Adapter]) -> tuple[str, list[str]]:
    """The base of the output, and warnings; MismatchError where the adapters have several."""
    named: dict[str, Adapter] = {}
    for adapter in adapters:
        if adapter.base:
            named.setdefault(adapter.base, adapter)
    if recipe.base_model is not None:
        base = str(recipe.base_model)
        others = [f"'{a.path}' names the base '{n}', not '{base}'." for n, a in named.items()]
        return base, [text for n, text in zip(named, others, strict=True) if n != base]
    if len(named) > 1:
        (one, first), (other, second), *_ = named.items()
        raise MismatchError(
            f"'{first.path}' was trained on '{one}', '{second.path}' on '{other}'; adapters of "
            "different bases do not add up. If both are the same model, say so with "
            f"base_model: {one}."
        )
    return next(iter(named), ""), []


def _modules(adapters: Sequence[Adapter]) -> dict[str, tuple[int, ...]]:
    """Every module, in the order of the adapters, with the adapters that have it."""
    found: dict[str, tuple[int, ...]] = {}
    for i, adapter in enumerate(adapters):
        for module in adapter.modules:
            found[module] = (*found.get(module, ()), i)
    return found


def _tasks(
    recipe: Recipe, document: Document, method: Method, adapters: Sequence[Adapter]
) -> Iterator[AdapterTask]:
    part, numbers = parts_of(recipe)[0], Numbers(recipe, document, method)
    modules = _modules(adapters)
    shapes = {
        f"{module}.weight": _same_shape(module, owners, adapters)
        for module, owners in modules.items()
    }
    places = survey(shapes, {}).places
    every = tuple(range(len(adapters)))
    biased = _biased(adapters)
    for module, owners in modules.items():
        place = places[f"{module}.weight"]
        members = owners if method.on == "factors" else every
        given = [(part.sources[i], place.name) for i in members]
        parameters = numbers.of(place, part, given, gradient_depth(place))
        rank = _rank(document, method, module, owners, adapters, parameters)
        like = adapters[owners[0]].modules[module]
        dtype = dtype_named(recipe.out_dtype) if recipe.out_dtype else NAMES[like.a.dtype]
        bias = biased is not None
        if bias and like.kind == "embedding":
            raise MismatchError(
                f"'{biased}' has a bias of its B (lora_bias), and '{module}' is an embedding; PEFT "
                "has no adapter with both."
            )
        spanned = sum(adapters[i].modules[module].rank for i in owners)
        core = (min(like.shape[0], spanned), min(like.shape[1], spanned))
        yield AdapterTask(module, place, members, like, rank, dtype, parameters, bias, core)


def _biased(adapters: Sequence[Adapter]) -> str | None:
    """An adapter with a bias of its b. PEFT gives it to every module of an adapter, or to none."""
    biased = (a.path for a in adapters if any(m.bias is not None for m in a.modules.values()))
    return next(biased, None)


def _same_shape(module: str, owners: Sequence[int], adapters: Sequence[Adapter]) -> tuple[int, int]:
    """[out, in] of a module's delta; MismatchError where adapters disagree on it."""
    first = adapters[owners[0]].modules[module]
    for i in owners[1:]:
        other = adapters[i].modules[module]
        same = (first.kind, first.shape, first.a.shape[1:], first.b.shape[2:])
        if (other.kind, other.shape, other.a.shape[1:], other.b.shape[2:]) != same:
            raise MismatchError(
                f"'{module}' is {first.kind} {list(first.shape)} in '{adapters[owners[0]].path}' "
                f"but {other.kind} {list(other.shape)} in '{adapters[i].path}'; the adapters "
                "belong to different bases."
            )
    return first.shape


def _rank(
    document: Document,
    method: Method,
    module: str,
    owners: Sequence[int],
    adapters: Sequence[Adapter],
    parameters: Mapping[str, Any],
) -> int:
    """The rank of the result for a module, as the method says it."""
    held = [adapters[i].modules[module] for i in owners]
    try:
        return int(
            call(
                method.rank or given_rank,
                ranks=[m.rank for m in held],
                largest=max(a.largest_rank for a in adapters),
                count=len(adapters),
                shape=held[0].shape,
                **parameters,
            )
        )
    except MethodError as error:
        place = document.at(("merge_method",))
        raise RecipeError(f"{place}: '{method.name}' on '{module}': {error}.") from error


def _whole(adapters: Sequence[Adapter]) -> Iterator[Whole]:
    """The tensors that replace those of the base; MismatchError where their shapes differ."""
    owners: dict[str, tuple[int, ...]] = {}
    for i, adapter in enumerate(adapters):
        for name in adapter.replaced:
            owners[name] = (*owners.get(name, ()), i)
    for name, held in owners.items():
        tensors = [adapters[i].replaced[name] for i in held]
        if len({(tuple(t.shape), t.is_floating_point()) for t in tensors}) > 1:
            raise MismatchError(
                f"'{name}' stands whole in {', '.join(adapters[i].path for i in held)} with "
                "different shapes; the adapters belong to different bases."
            )
        yield Whole(name, held, tuple(tensors[0].shape), NAMES[tensors[0].dtype])
