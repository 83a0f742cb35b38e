"""One output tensor and the tensors that it is merged from -> its task, or a clear refusal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cermet.anatomy import token_tensors
from cermet.checkpoints.dtypes import FLOATS, dtype_named
from cermet.checkpoints.reader import Checkpoint
from cermet.core.cover import plain_sum
from cermet.core.errors import MismatchError
from cermet.core.registry import Method
from cermet.core.types import Place
from cermet.recipes.fitting import Fitting
from cermet.recipes.keeping import Keeping
from cermet.recipes.needs import Statistics
from cermet.recipes.numbers import Numbers
from cermet.recipes.parts import Part
from cermet.recipes.plan import Named, Task
from cermet.recipes.schema import ModelRef, Recipe, Source

__all__ = ["Differ", "Making"]

Differ = Callable[[ModelRef, ModelRef], str]
"""How the vocabularies of two models differ, in a sentence."""


class Making:
    """The tasks of one recipe.

    Attributes
    ----------
    compute, out: the dtypes that the recipe asks for, of inputs and outputs; None for those stored.
    """

    def __init__(
        self,
        recipe: Recipe,
        method: Method,
        models: Sequence[ModelRef],
        checkpoints: Sequence[Checkpoint],
        fitting: Fitting,
        keeping: Keeping,
        numbers: Numbers,
        statistics: Statistics,
        differ: Differ,
    ) -> None:
        self.compute = dtype_named(recipe.dtype) if recipe.dtype else None
        self.out = dtype_named(recipe.out_dtype) if recipe.out_dtype else self.compute
        self._method, self._models, self._checkpoints = method, models, checkpoints
        self._index = {model: i for i, model in enumerate(models)}
        self._fitting, self._keeping = fitting, keeping
        self._numbers, self._statistics, self._differ = numbers, statistics, differ

    def kept(self, name: str, place: Place) -> Task:
        """The task of a tensor that is kept as the anchor has it."""
        donor, fitting = self._fitting.anchor, self._fitting
        stored = fitting.alias(donor, name)
        if stored is None:
            raise MismatchError(
                f"'{self._models[donor]}' has no tensor '{name}', which is to be kept."
            )
        info = fitting.models[donor].tensors[stored]
        dtype = info.dtype if fitting.buffer(donor, stored) else self.out or info.dtype
        return self._keeping.task(name, stored, place, dtype)

    def task(
        self,
        name: str,
        place: Place,
        part: Part,
        template: int,
        sources: Sequence[tuple[Source, str]],
        t: float,
    ) -> Task:
        """The task of a tensor of a part: of `sources`, with the names that they have it under.

        `template` is the model that says its shape, `t` the depth at which gradients are read.
        """
        ref = self._models[template]
        own = next((n for s, n in sources if s.model == ref), name)
        stored = self._fitting.alias(template, own)
        if stored is None:
            raise MismatchError(f"'{ref}' has no tensor '{own}'.")
        info = self._fitting.models[template].tensors[stored]
        shape = info.shape
        if self._fitting.buffer(template, stored):
            return Task(name, info.dtype, shape, place, None, self._buffers(shape, sources))
        uses_base = self._method.base != "none" and part.base is not None
        experts = [(s, n) for s, n in sources if not (uses_base and s.model == part.base)]
        named = tuple(self._named(s.model, n, shape, ref) for s, n in experts)
        base = None
        if uses_base:
            assert part.base is not None
            given = next((n for s, n in sources if s.model == part.base), own)
            base = self._named(part.base, given, shape, ref)
        minus = tuple(
            self._named(s.delta_of, n, shape, ref) if s.delta_of is not None else None
            for s, n in experts
        )
        parameters = self._numbers.of(place, part, experts, t)
        needs = self._needs(part, experts, named, base, place, parameters)
        if self._method.base == "first" and base is not None:
            named, base = (base, *named), None
        dtype = self.out or info.dtype
        if self._verbatim(dtype, info.dtype, parameters):
            return Task(name, dtype, shape, place, None, named)
        return Task(
            name, dtype, shape, place, self._method, named, base,
            minus if any(m is not None for m in minus) else (), parameters, needs,
        )  # fmt: skip

    def _buffers(
        self, shape: tuple[int, ...], sources: Sequence[tuple[Source, str]]
    ) -> tuple[Named, ...]:
        """A buffer of all models that have it; they are compared when it is copied."""
        held = []
        for source, name in sources:
            model = self._index[source.model]
            if name in self._fitting.models[model].tensors:
                held.append(self._fitting.stored(model, name))
        for other in held:
            if self._checkpoints[other.model].tensors[other.tensor].shape != shape:
                raise MismatchError(
                    f"The buffer '{other.tensor}' of '{self._models[other.model]}' has another "
                    f"shape than {list(shape)}; buffers are copied, so they must be equal."
                )
        return tuple(held)

    def _named(self, ref: ModelRef, name: str, shape: tuple[int, ...], template: ModelRef) -> Named:
        model = self._index[ref]
        stored = self._fitting.alias(model, name)
        if stored is None:
            raise MismatchError(
                f"'{ref}' has no tensor '{name}'; the models must have the same architecture."
            )
        fitted = self._fitting.models[model]
        info = fitted.tensors[stored]
        if info.shape != shape:
            extra = ""
            tokens = token_tensors(fitted.anatomy)
            if tokens is not None and stored in tokens.names and info.shape[1:] == shape[1:]:
                extra = f" {self._differ(template, ref)}"
            extra += self._keeping.advice(stored, fitted.anatomy.places[stored])
            raise MismatchError(
                f"Tensor '{name}' is {list(info.shape)} in '{ref}' but {list(shape)} in the "
                f"others; their shapes must be equal.{extra}"
            )
        if info.dtype not in FLOATS:
            raise MismatchError(
                f"Tensor '{name}' is {info.dtype} in '{ref}', which is no dtype of weights; a "
                "quantised model must be dequantised first."
            )
        return self._fitting.stored(model, stored)

    def _needs(
        self,
        part: Part,
        experts: Sequence[tuple[Source, str]],
        named: Sequence[Named],
        base: Named | None,
        place: Place,
        parameters: Mapping[str, Any],
    ) -> Mapping[str, tuple[Named, ...]]:
        """The statistics of a tensor; a plain sum needs none."""
        wheres = {id(s): w for s, w in zip(part.sources, part.wheres, strict=True)}
        plain = plain_sum(self._method, place=place, count=len(named), **parameters) is not None
        given = [(s, wheres[id(s)]) for s, _ in experts]
        return self._statistics.of(given, named, base, place, plain=plain)

    def _verbatim(self, out: str, stored: str, parameters: Mapping[str, Any]) -> bool:
        """Whether the bytes can be copied as they are."""
        plain = self._method.name == "passthrough" and parameters["scale"] is None
        return plain and out == stored and self.compute in (None, stored)
