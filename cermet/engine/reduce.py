"""One round over one tensor: the values of its pieces, reduced in order of the pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from cermet.core.errors import NonFiniteError
from cermet.core.noise import Streams
from cermet.core.rounds import Gram, Kth, Round, Rows, Sum
from cermet.engine.executors import Stage
from cermet.engine.search import Search, Searched
from cermet.maths.vectors import Vectors

__all__ = ["Reduced", "stages_of"]


class Reduced(Searched, Protocol):
    """What a round needs of a job."""

    name: str

    def sums(self, spec: Sum, streams: Streams, begin: int, end: int) -> Tensor:
        """Sums of a round's values over the leaves of a run."""

    def grams(self, spec: Gram, streams: Streams, begin: int, end: int) -> Tensor:
        """Inner products between the models over the leaves of a run."""

    def block_values(
        self, of: Callable[..., Any] | None, streams: Streams, begin: int, end: int
    ) -> Tensor:
        """Values of one block, as `of` returns them."""


def stages_of(job: Reduced, spec: Round) -> Iterator[Stage]:
    """The stages of a round; its result goes into the job's state."""
    if isinstance(spec, Sum):
        yield from _sum(job, spec)
    elif isinstance(spec, Gram):
        yield from _gram(job, spec)
    elif isinstance(spec, Kth):
        search = Search([job], spec)
        yield from search.stages()
        job.state[spec.name] = search.cutoff()
    elif isinstance(spec, Rows):
        yield from _rows(job, spec)


def _gathered(
    job: Reduced, reduce: Callable[[int, int], Tensor], parts: dict[int, Tensor]
) -> Iterator[Stage]:
    """The stage in which every piece is reduced into `parts`, by where it starts."""

    def work(start: int, stop: int) -> None:
        parts[start] = reduce(start, stop)

    yield [partial(work, start, stop) for start, stop in job.cut.pieces()]
    job.seen()


def _ordered(parts: dict[int, Tensor]) -> Tensor:
    return torch.cat([parts[start] for start in sorted(parts)], dim=-1)


def _sum(job: Reduced, spec: Sum) -> Iterator[Stage]:
    parts: dict[int, Tensor] = {}

    def add(start: int, stop: int) -> Tensor:
        streams = job.streams()
        leaves = [job.sums(spec, streams, *run) for run in job.cut.runs(start, stop)]
        return torch.cat(leaves, dim=-1)

    yield from _gathered(job, add, parts)
    job.state[spec.name] = _ordered(parts).sum(dim=-1).cpu()


def _gram(job: Reduced, spec: Gram) -> Iterator[Stage]:
    parts: dict[int, Tensor] = {}

    def multiply(start: int, stop: int) -> Tensor:
        streams = job.streams()
        leaves = [job.grams(spec, streams, *run) for run in job.cut.runs(start, stop)]
        return torch.cat(leaves, dim=-1)

    yield from _gathered(job, multiply, parts)
    gram = _ordered(parts).sum(dim=-1).cpu()
    if not bool(torch.isfinite(gram).all()):
        raise NonFiniteError(
            f"Tensor '{job.name}' holds values so large that their squares leave the range "
            "of float32; no angle between its models can be measured."
        )
    job.state[spec.name] = gram


def _rows(job: Reduced, spec: Rows) -> Iterator[Stage]:
    parts: dict[int, Tensor] = {}

    def look(start: int, stop: int) -> Tensor:
        streams = job.streams()
        found = [
            job.block_values(spec.of, streams, begin, end)
            for begin, end in job.cut.blocks(start, stop)
        ]
        return torch.cat(found, dim=-1)

    yield from _gathered(job, look, parts)
    job.state[spec.name] = Vectors(_ordered(parts), job.cut.unit)
