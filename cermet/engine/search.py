"""The search for exact order statistics of a tensor, pass by pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from cermet.core.noise import Stream
from cermet.core.registry import Kth, call, takes
from cermet.engine.geometry import Geometry
from cermet.maths.select import Bracket, Cutoff, Found, Tally, bracket, conclude, tally

__all__ = ["Search", "Searched"]

_CAP = 1 << 22  # values kept at most for one order statistic in one pass


class Searched(Protocol):
    """What the search needs of a job."""

    cut: Geometry
    parameters: dict[str, Any]
    state: dict[str, Any]

    def streams(self) -> list[Stream]:
        """Fresh random numbers for one piece."""

    def values(
        self, of: Callable[..., Any] | None, streams: Sequence[Stream], start: int, stop: int
    ) -> Tensor:
        """Values of `of` [..., elements] for the elements [start, stop)."""


class Search:
    """The search for the order statistics of one round of one job."""

    def __init__(self, job: Searched, spec: Kth) -> None:
        self.job, self.spec = job, spec
        self.ranks: list[list[int]] = []
        self.brackets: dict[tuple[int, int], Bracket] = {}
        self.found: dict[tuple[int, int], Found] = {}
        self.ends: dict[tuple[int, int], int] = {}
        self.tallies: dict[int, list[dict[tuple[int, int], Tally]]] = {}
        self.exact = "nonzero" not in takes(spec.rank)
        self.most = job.cut.numel if spec.smallest else job.cut.numel - 1  # the last rank to find

    @property
    def open(self) -> bool:
        """Whether some order statistic is still looked for."""
        return bool(self.brackets)

    def _rank(self, nonzero: list[int] | None) -> list[list[int]]:
        known = {**self.job.parameters, **self.job.state}
        ranks = call(self.spec.rank, numel=self.job.cut.numel, nonzero=nonzero, **known)
        return [list(row) for row in ranks]

    def sample(self) -> None:
        """Guess brackets from a few blocks."""
        job, numel = self.job, self.job.cut.numel
        streams = job.streams()
        blocks = [job.values(self.spec.of, streams, s, e) for s, e in job.cut.sample()]
        seen = torch.cat(blocks, dim=-1).cpu().numpy() if blocks else None
        if self.exact:
            self.ranks = self._rank(None)
        else:
            rows = 1 if seen is None else len(seen)
            share = [1.0] * rows if seen is None else [float((r != 0).mean()) for r in seen]
            self.ranks = self._rank([round(s * numel) for s in share])
        for row, ranks in enumerate(self.ranks):
            ordered = np.empty(0, np.float32) if seen is None else seen[row]
            for cut, rank in enumerate(ranks):
                if not self.exact or 0 < rank <= self.most:
                    self.brackets[row, cut] = bracket(ordered, rank, numel)
        if numel == 0:
            self.brackets.clear()

    def look(self, start: int, stop: int) -> None:
        """One pass over one piece."""
        job = self.job
        streams, seen = job.streams(), []
        for begin, end in job.cut.runs(start, stop):
            values = job.values(self.spec.of, streams, begin, end)
            cap = max(1024, _CAP * (end - begin) // job.cut.numel)
            seen.append(
                {
                    key: tally(values[key[0]], at, job.cut.leaf, cap, nonzero=not self.exact)
                    for key, at in self.brackets.items()
                }
            )
        self.tallies[start] = seen

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
        leaf = self.job.cut.leaf
        for key, found in self.found.items():
            if found.leaf is None:
                self.ends[key] = self.job.cut.numel
                continue
            start = found.leaf * leaf
            stop = min(start + leaf, self.job.cut.numel)
            values = self.job.values(self.spec.of, self.job.streams(), start, stop)[key[0]]
            ties = (values == float(found.value)).nonzero().reshape(-1)
            self.ends[key] = start + int(ties[found.within - 1]) + 1

    def cutoff(self) -> Cutoff:
        """What was found, for the rounds and the merge that follow."""
        value: list[list[float]] = []
        end: list[list[int]] = []
        for row, ranks in enumerate(self.ranks):
            value.append([])
            end.append([])
            for cut, rank in enumerate(ranks):
                found = self.found.get((row, cut))
                edge = float("inf") if rank <= 0 else -float("inf")
                value[-1].append(edge if found is None else float(found.value))
                end[-1].append(0 if rank <= 0 else self.ends.get((row, cut), self.job.cut.numel))
        return Cutoff(tuple(map(tuple, value)), tuple(map(tuple, end)))
