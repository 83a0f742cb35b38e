"""A plan: a recipe resolved against headers. Nothing has been read or written yet."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cermet.checkpoints.dtypes import SIZES
from cermet.checkpoints.origin import Origin
from cermet.checkpoints.reader import Checkpoint
from cermet.core.cover import plain_sum
from cermet.core.registry import Method, call
from cermet.core.types import Place
from cermet.recipes.schema import ModelRef, Recipe
from cermet.recipes.vocabulary import Outcome

__all__ = ["Named", "Plan", "Task"]


@dataclass(frozen=True, slots=True)
class Named:
    """One tensor of one model of the plan."""

    model: int
    tensor: str


@dataclass(frozen=True, slots=True)
class Task:
    """One output tensor: its sources, its method and its numbers.

    Attributes
    ----------
    dtype: of the output, spelled as in safetensors.
    method: None for a tensor that is copied: a buffer, or one that needs no arithmetic.
    sources: what the method is given, in order; for a copy, all that must be equal.
    base: what is subtracted from the sources and added to the result.
    minus: for each source the base of its own, where a recipe names one (`delta_of`).
    parameters: by argument of the method.
    needs: the statistics by name: one tensor for each expert, or one for all.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    place: Place
    method: Method | None
    sources: tuple[Named, ...]
    base: Named | None = None
    minus: tuple[Named | None, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    needs: Mapping[str, tuple[Named, ...]] = field(default_factory=dict)

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the output."""
        return self.numel * SIZES[self.dtype]

    def inputs(self) -> list[Named]:
        """Every tensor that is read, once."""
        own = [m for m in self.minus if m is not None]
        statistics = [n for named in self.needs.values() for n in named]
        return [*self.sources, *([self.base] if self.base is not None else []), *own, *statistics]

    @property
    def passes(self) -> int:
        """How often the inputs are read: once for each round that is needed, and to merge."""
        known = {"place": self.place, "count": len(self.sources), **self.parameters}
        if self.method is None or plain_sum(self.method, **known) is not None:
            return 1
        return 1 + sum(
            r.when is None or bool(call(r.when, place=self.place, **self.parameters))
            for r in self.method.rounds
            if r.reads
        )


@dataclass(frozen=True)
class Plan:
    """Everything that a run will do.

    Attributes
    ----------
    models: as the recipe names them.
    checkpoints: the same models, opened, and after them the files of statistics;
        `Named.model` counts through them.
    config: the config of the output.
    donor: the model whose tokenizer and other files are carried over.
    copies: tied tensors that a model stores twice and the output once: the one that is read,
        and the other, which must hold the same.
    statistics: the files of statistics, as the recipe names them.
    vocabulary: what happens to the tokens, where the recipe says it.
    notes: what of the models is merged with what, and what is kept of one of them, in sentences.
    origins: the folders that something is taken from, with what their cards state.
    """

    recipe: Recipe
    method: Method
    models: tuple[ModelRef, ...]
    checkpoints: tuple[Checkpoint, ...]
    tasks: tuple[Task, ...]
    config: Mapping[str, Any]
    donor: int
    compute_dtype: str | None
    warnings: tuple[str, ...] = ()
    copies: tuple[tuple[Named, Named], ...] = ()
    statistics: tuple[str, ...] = ()
    vocabulary: Outcome | None = None
    notes: tuple[str, ...] = ()
    origins: tuple[Origin, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """What the recipe calls each of the checkpoints."""
        return (*map(str, self.models), *self.statistics)

    def bytes_read(self) -> int:
        """Bytes of all inputs over all passes."""
        return sum(
            task.passes * self.checkpoints[n.model].tensors[n.tensor].nbytes
            for task in self.tasks
            for n in task.inputs()
        )

    def bytes_written(self) -> int:
        """Bytes of all output tensors."""
        return sum(task.nbytes for task in self.tasks)
