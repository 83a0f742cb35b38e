"""One round over one tensor: the values of its pieces, reduced in order of the pieces."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from cermet.core.errors import NonFiniteError
from cermet.core.noise import Streams
from cermet.core.rounds import Gram, Kth, Round, Rows, Sum
from cermet.engine.executors import Stage
from cermet.engine.leaves import Leaves, added
from cermet.engine.search import Search, Searched
from cermet.maths.vectors import Vectors

__all__ = ["Reduced", "stages_of"]


Piece = TypeVar("Piece")


class Reduced(Searched, Protocol):
    """What a round needs of a job."""

    name: str

    def sums(self, spec: Sum, streams: Streams, begin: int, end: int) -> Leaves:
        """Sums of a round's values over the leaves of a run."""

    def grams(self, spec: Gram, streams: Streams, begin: int, end: int) -> Leaves:
        """Inner products between the models over the leaves of a run."""

    def block_values(
        self, of: Callable[..., Any] | None, streams: Streams, begin: int, end: int
    ) -> torch.Tensor:
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
    job: Reduced, reduce: Callable[[int, int], Piece], parts: dict[int, Piece]
) -> Iterator[Stage]:
    """The stage in which every piece is reduced into `parts`, by where it starts."""

    def work(start: int, stop: int) -> None:
        parts[start] = reduce(start, stop)

    yield [partial(work, start, stop) for start, stop in job.cut.pieces()]
    job.seen()


def _added(
    job: Reduced, reduce: Callable[[Streams, int, int], Leaves]
) -> Generator[Stage, None, npt.NDArray[np.float64]]:
    """The stage in which every run of leaves is reduced; what comes of all leaves together."""
    parts: dict[int, list[Leaves]] = {}

    def piece(start: int, stop: int) -> list[Leaves]:
        streams = job.streams()
        return [reduce(streams, *run) for run in job.cut.runs(start, stop)]

    yield from _gathered(job, piece, parts)
    return added([run for start in sorted(parts) for run in parts[start]])


def _sum(job: Reduced, spec: Sum) -> Iterator[Stage]:
    found = yield from _added(job, partial(job.sums, spec))
    job.state[spec.name] = found if spec.arrays else torch.from_numpy(found)


def _gram(job: Reduced, spec: Gram) -> Iterator[Stage]:
    found = yield from _added(job, partial(job.grams, spec))
    if not np.isfinite(found).all():
        raise NonFiniteError(
            f"Tensor '{job.name}' holds values so large that their squares leave the range "
            "of float32; no angle between its models can be measured."
        )
    job.state[spec.name] = found if spec.arrays else torch.from_numpy(found)


def _rows(job: Reduced, spec: Rows) -> Iterator[Stage]:
    parts: dict[int, torch.Tensor] = {}

    def look(start: int, stop: int) -> torch.Tensor:
        streams = job.streams()
        found = [
            job.block_values(spec.of, streams, begin, end)
            for begin, end in job.cut.blocks(start, stop)
        ]
        return torch.cat(found, dim=-1)

    yield from _gathered(job, look, parts)
    whole = torch.cat([parts[start] for start in sorted(parts)], dim=-1)
    job.state[spec.name] = Vectors(whole, job.cut.unit)
