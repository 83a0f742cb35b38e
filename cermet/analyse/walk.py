"""Tensors in windows, on all cores: every window gives a part, and the parts meet in order.

The windows follow from a tensor's shape alone, so sums do not depend on threads or memory.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial, reduce
from typing import Any, Generic, NamedTuple, Protocol, Self, TypeVar

from cermet.core.errors import BudgetError
from cermet.engine.executors import Stage, one_thread
from cermet.engine.executors.threads import Threads

__all__ = ["Addable", "Window", "cores", "each", "threads_within", "walk", "windows"]

_PER_PIECE = 16  # windows that one thread looks at before it takes another piece

Progress = Callable[[str, int], None]


class Window(NamedTuple):
    """Flat elements [start, stop) of a tensor."""

    start: int
    stop: int


class Addable(Protocol):
    """What is found in a window; parts of one tensor are added in the order of its windows."""

    def __add__(self, other: Self, /) -> Self: ...


Part = TypeVar("Part", bound=Addable)


def windows(numel: int, size: int) -> list[Window]:
    """Runs of at most `size` elements that make up a tensor; none of an empty one."""
    return [Window(start, min(start + size, numel)) for start in range(0, numel, size)]


def cores() -> int:
    """The cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def threads_within(threads: int | None, memory: int, each: float, what: str) -> int:
    """How many threads fit into `memory` bytes where each takes `each`; BudgetError for none."""
    fitting = int(memory / each)
    if fitting < 1:
        raise BudgetError(
            f"{what} takes {each / 1e6:,.0f} MB, but the budget is {memory / 1e6:,.0f} MB; give "
            "more with --memory."
        )
    return min(threads or cores(), fitting)


Found = TypeVar("Found")


class _Job(Generic[Found]):
    """One tensor: its windows in pieces, and where their sum goes."""

    together = False

    def __init__(
        self,
        name: str,
        cuts: Sequence[Window],
        work: Callable[[str, Window], Found],
        found: dict[str, Found],
        progress: Progress | None,
    ) -> None:
        self.name, self._cuts, self._work = name, cuts, work
        self._found, self._progress = found, progress

    @property
    def numel(self) -> int:
        """Elements of the tensor."""
        return self._cuts[-1].stop if self._cuts else 0

    def stages(self) -> Iterator[Stage]:
        """One stage: every piece of the tensor; after it, their sum."""
        cuts = [self._cuts[i : i + _PER_PIECE] for i in range(0, len(self._cuts), _PER_PIECE)]
        parts: list[Any] = [None] * len(cuts)

        def run(index: int) -> None:
            for window in cuts[index]:
                part = self._work(self.name, window)
                parts[index] = part if parts[index] is None else parts[index] + part
                if self._progress is not None:
                    self._progress(self.name, window.stop - window.start)

        yield [partial(run, index) for index in range(len(cuts))]
        if parts:
            self._found[self.name] = reduce(operator.add, parts)


def walk(
    cuts: Mapping[str, Sequence[Window]],
    work: Callable[[str, Window], Part],
    threads: int,
    progress: Progress | None = None,
) -> dict[str, Part]:
    """Call `work` on every window of every tensor and add up what it gives, tensor by tensor.

    Parameters
    ----------
    cuts: the windows of each tensor; one without windows gives nothing.
    work: name and window -> a part. Each thread holds what one call needs.
    progress: gets a tensor's name and how many more of its elements have been seen.

    Returns the sums by name, in the order of `cuts`.
    """
    found: dict[str, Part] = {}
    jobs = [_Job(name, cut, work, found, progress) for name, cut in cuts.items()]
    with one_thread():
        Threads(threads).run(jobs)
    return {name: found[name] for name in cuts if name in found}


def each(names: Sequence[str], work: Callable[[str], Found], threads: int) -> dict[str, Found]:
    """Call `work` on every name, on so many threads; what it gives, in the order of the names."""
    found: dict[str, Found] = {}
    whole = [Window(0, 1)]
    jobs = [_Job(name, whole, lambda name, _: work(name), found, None) for name in names]
    with one_thread():
        Threads(threads).run(jobs)
    return {name: found[name] for name in names}
