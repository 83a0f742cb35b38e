"""One piece after another, in the thread that asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from cermet.engine.executors import Staged

__all__ = ["Serial"]


class Serial:
    """Runs the jobs in order."""

    def relay(self, function: Callable[..., None]) -> Callable[..., None]:
        """The function itself."""
        return function

    def run(self, jobs: Iterable[Staged]) -> None:
        """Run every piece of every job."""
        for job in jobs:
            for stage in job.stages():
                for piece in stage:
                    piece()
