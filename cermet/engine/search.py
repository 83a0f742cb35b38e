"""The search for exact order statistics, pass by pass: of one tensor, or of several as one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate
from typing import Any, Protocol

import numpy as np

from cermet.core.noise import Streams
from cermet.core.registry import Kth, call, takes
from cermet.engine.executors import Stage
from cermet.engine.geometry import Geometry
from cermet.maths.select import Bracket, Cutoff, Floats, Found, Tally, bracket, conclude

__all__ = ["Search", "Searched"]

_CAP = 1 << 22  # values kept at most for one order statistic in one pass
_SAMPLE = 1 << 16  # values of all tensors together that the first guess is made from


class Searched(Protocol):
    """What the search needs of a job."""

    cut: Geometry
    parameters: dict[str, Any]
    state: dict[str, Any]

    def streams(self) -> Streams:
        """Fresh random numbers for one piece."""

    def looked_at(
        self, of: Callable[..., Any] | None, streams: Streams, blocks: Sequence[tuple[int, int]]
    ) -> Floats:
        """Values of `of` [rows, elements] of some blocks, end to end."""

    def tallies(
        self, spec: Kth, brackets: Mapping[tuple[int, int], Bracket], begin: int, end: int,
        cap: int, streams: Streams, *, nonzero: bool,
    ) -> dict[tuple[int, int], Tally]:  # fmt: skip
        """What a pass over a run of leaves tells of each bracket."""

    def seen(self) -> None:
        """All of the tensor has been read once."""


class Search:
    """The search for the order statistics of one round, over the tensors of `jobs` end to end.

    Attributes
    ----------
    offsets: job -> flat index of its first element among those of all.
    """

    def __init__(self, jobs: Sequence[Searched], spec: Kth) -> None:
        self.jobs, self.spec = jobs, spec
        sizes = [job.cut.numel for job in jobs]
        self.numel = sum(sizes)
        self.offsets: dict[Searched, int] = dict(
            zip(jobs, accumulate(sizes, initial=0), strict=False)
        )
        self.ranks: list[list[int]] = []
        self.brackets: dict[tuple[int, int], Bracket] = {}
        self.found: dict[tuple[int, int], Found] = {}
        self.ends: dict[tuple[int, int], int] = {}
        self.tallies: dict[int, list[dict[tuple[int, int], Tally]]] = {}
        self.exact = "nonzero" not in takes(spec.rank)
        self.most = self.numel if spec.smallest else self.numel - 1  # the last rank to find

    def stages(self) -> Iterator[Stage]:
        """A look at a sample, then passes until every order statistic is found."""
        yield [self.sample]
        while self.brackets:
            yield [
                partial(self.look, job, start, stop)
                for job in self.jobs
                for start, stop in job.cut.pieces()
            ]
            for job in self.jobs:
                job.seen()
            self.close()
        yield [self.locate]

    def _rank(self, nonzero: list[int] | None) -> list[list[int]]:
        known = {**self.jobs[0].parameters, **self.jobs[0].state}
        ranks = call(self.spec.rank, numel=self.numel, nonzero=nonzero, **known)
        return [list(row) for row in ranks]

    def _sample_of(self, job: Searched) -> Floats | None:
        """Some values of a tensor, as many as is its share of all; None where all are few."""
        streams, cut = job.streams(), job.cut
        blocks = cut.sample()
        if not blocks:
            if len(self.jobs) == 1:
                return None
            blocks = list(cut.blocks(0, cut.numel))
        values = job.looked_at(self.spec.of, streams, blocks)
        share = max(1, _SAMPLE * cut.numel // self.numel)
        step = max(1, values.shape[-1] // share) if len(self.jobs) > 1 else 1
        return values[..., ::step]

    def sample(self) -> None:
        """Guess brackets from a few blocks."""
        parts = [part for job in self.jobs if (part := self._sample_of(job)) is not None]
        seen = np.concatenate(parts, axis=-1) if parts else None
        if self.exact:
            self.ranks = self._rank(None)
        else:
            rows = 1 if seen is None else len(seen)
            share = [1.0] * rows if seen is None else [float((r != 0).mean()) for r in seen]
            self.ranks = self._rank([round(s * self.numel) for s in share])
        for row, ranks in enumerate(self.ranks):
            ordered = np.empty(0, np.float32) if seen is None else seen[row]
            for cut, rank in enumerate(ranks):
                if not self.exact or 0 < rank <= self.most:
                    self.brackets[row, cut] = bracket(ordered, rank, self.numel)
        if self.numel == 0:
            self.brackets.clear()

    def look(self, job: Searched, start: int, stop: int) -> None:
        """One pass over one piece."""
        streams, seen = job.streams(), []
        for begin, end in job.cut.runs(start, stop):
            cap = max(1024, _CAP * (end - begin) // self.numel)
            seen.append(
                job.tallies(
                    self.spec, self.brackets, begin, end, cap, streams, nonzero=not self.exact
                )
            )
        self.tallies[self.offsets[job] + start] = seen

    def close(self) -> None:
        """Draw the conclusions of a pass."""
        runs = [run for start in sorted(self.tallies) for run in self.tallies[start]]
        if not self.exact:
            count = [sum(run[row, 0].nonzero for run in runs) for row in range(len(self.ranks))]
            self.ranks, self.exact = self._rank(count), True
        for key, at in list(self.brackets.items()):
            rank = self.ranks[key[0]][key[1]]
            if not 0 < rank <= self.most:
                del self.brackets[key]
                continue
            outcome = conclude([run[key] for run in runs], at, rank)
            if isinstance(outcome, Found):
                self.found[key] = outcome
                del self.brackets[key]
            else:
                self.brackets[key] = outcome
        self.tallies.clear()

    def locate(self) -> None:
        """Find the flat index behind the last tie that is kept."""
        for key, found in self.found.items():
            if found.leaf is None:
                self.ends[key] = self.numel
                continue
            job, start = self._leaf(found.leaf)
            stop = min(start + job.cut.leaf, job.cut.numel)
            values = job.looked_at(self.spec.of, job.streams(), [(start, stop)])[key[0]]
            ties = np.flatnonzero(values == np.float32(found.value))
            self.ends[key] = self.offsets[job] + start + int(ties[found.within - 1]) + 1

    def _leaf(self, index: int) -> tuple[Searched, int]:
        """The job of a leaf, counted through all jobs, and where in it the leaf begins."""
        for job in self.jobs:
            leaves = -(-job.cut.numel // job.cut.leaf)
            if index < leaves:
                return job, index * job.cut.leaf
            index -= leaves
        raise AssertionError("a leaf behind the last")

    def cutoff(self) -> Cutoff:
        """What was found, for the rounds and the merge that follow; positions among all."""
        value: list[list[float]] = []
        end: list[list[int]] = []
        for row, ranks in enumerate(self.ranks):
            value.append([])
            end.append([])
            for cut, rank in enumerate(ranks):
                found = self.found.get((row, cut))
                edge = float("inf") if rank <= 0 else -float("inf")
                value[-1].append(edge if found is None else float(found.value))
                end[-1].append(0 if rank <= 0 else self.ends.get((row, cut), self.numel))
        return Cutoff(tuple(map(tuple, value)), tuple(map(tuple, end)))
