"""One small file for each way to run jobs: in this thread, in several threads.

An executor gets jobs and runs their stages; it knows nothing of models, methods or files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

__all__ = ["Executor", "Stage", "Staged"]

Stage = list[Callable[[], None]]


class Staged(Protocol):
    """A job: stages in order, each a list of pieces that do not depend on each other."""

    name: str

    def stages(self) -> Iterator[Stage]:
        """Every stage, in order; the next is asked for once all pieces of one have run."""


class Executor(Protocol):
    """Runs every piece of every job; the first error ends the run and is raised."""

    def run(self, jobs: Iterable[Staged]) -> None:
        """Run all jobs to their end."""
