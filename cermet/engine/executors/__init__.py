"""One small file for each way to run jobs: in this thread, in several, in several processes.

An executor gets jobs and runs their stages; it knows nothing of models, methods or files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch

from cermet.core.later import once_loaded

__all__ = ["Executor", "Stage", "Staged", "one_thread"]

Stage = list[Callable[[], None]]


class Staged(Protocol):
    """A job: stages in order, each a list of pieces that do not depend on each other.

    numel: elements of its output, by which long jobs are known. together: whether it spans
    several tensors, whose results meet in memory, so that processes cannot divide it.
    """

    name: str
    together: bool

    @property
    def numel(self) -> int: ...

    def stages(self) -> Iterator[Stage]:
        """Every stage, in order; the next is asked for once all pieces of one have run."""


class Executor(Protocol):
    """Runs every piece of every job; the first error ends the run and is raised."""

    def relay(self, function: Callable[..., None]) -> Callable[..., None]:
        """What a job has to call in place of `function`, wherever it runs."""

    def run(self, jobs: Iterable[Staged]) -> None:
        """Run all jobs to their end."""


@contextmanager
def one_thread() -> Iterator[None]:
    """No threads inside torch: the pieces are parallel, and sums and products round by them."""
    before: list[int] = []
    ended = False

    def alone() -> None:
        if not ended:
            before.append(torch.get_num_threads())
            torch.set_num_threads(1)

    once_loaded("torch", alone)
    try:
        yield
    finally:
        ended = True
        for threads in before:
            torch.set_num_threads(threads)
