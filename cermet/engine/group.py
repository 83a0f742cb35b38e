"""Tensors whose merges depend on each other: rounds over a layer or the whole model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch

from cermet.core.registry import Kth, Round, call
from cermet.engine.executors import Stage, Staged
from cermet.engine.job import Job
from cermet.engine.search import Search

__all__ = ["Group", "grouped"]


class Group:
    """The jobs of one method as a single job: every round runs over all tensors at once.

    `finish`: the jobs that are merged; all by default. The others only take part in rounds.
    """

    together = True

    def __init__(self, jobs: Iterable[Job], finish: Sequence[Job] | None = None) -> None:
        self.jobs = [job for job in jobs if job.cut.numel]
        self.name = self.jobs[0].name if self.jobs else ""
        self._finish = self.jobs if finish is None else [job for job in finish if job.cut.numel]

    @property
    def numel(self) -> int:
        """Elements of all tensors."""
        return sum(job.cut.numel for job in self.jobs)

    def stages(self) -> Iterator[Stage]:
        """Every stage, in order, each with the pieces of all tensors."""
        for spec in self.jobs[0].method.rounds if self.jobs else ():
            if spec.scope == "tensor":
                yield from _together([job.round(spec) for job in self.jobs if job.plain is None])
            else:
                yield from self._round(spec)
        yield from _together([job.finish() for job in self._finish])

    def _round(self, spec: Round) -> Iterator[Stage]:
        """A round over more than a tensor: all jobs of a layer, or all, get the same result."""
        first = self.jobs[0]
        covered = [job for job in self.jobs if job.plain is None]
        taking = [j for j in covered if spec.only is None or call(spec.only, **j.parameters)]
        if not taking or (spec.when is not None and not call(spec.when, **first.parameters)):
            for job in self.jobs:
                job.state[spec.name] = None
            return
        if isinstance(spec, Kth):
            search = Search(taking, spec)
            yield from search.stages()
            whole = search.cutoff()
            for job in self.jobs:
                job.state[spec.name] = whole.at(search.offsets.get(job, 0))
            return
        yield from _together([job.round(spec) for job in taking])
        parts: dict[object, list[torch.Tensor]] = {}
        for job in taking:
            parts.setdefault(_circle(job, spec), []).append(job.state[spec.name])
        sums = {circle: torch.stack(found).sum(dim=0) for circle, found in parts.items()}
        for job in self.jobs:
            job.state[spec.name] = sums.get(_circle(job, spec))


def _circle(job: Job, spec: Round) -> object:
    """What a job shares the result of a round with: its layer, or everything."""
    place = job.parameters["place"]
    if spec.scope == "model" or place is None:
        return None
    return place.stack, place.layer


def _together(jobs: Sequence[Iterator[Stage]]) -> Iterator[Stage]:
    """The first stages of all jobs as one stage, then the second ones, and so on."""
    going = list(jobs)
    while going:
        stages = [(job, next(job, None)) for job in going]
        going = [job for job, stage in stages if stage is not None]
        yield [piece for _, stage in stages if stage is not None for piece in stage]


def grouped(jobs: Iterable[Staged]) -> Iterator[Staged]:
    """The same jobs, with those whose method looks at the whole model as one at the end."""
    whole = []
    for job in jobs:
        if isinstance(job, Job) and job.method.whole:
            whole.append(job)
        else:
            yield job
    if whole:
        yield Group(whole)
