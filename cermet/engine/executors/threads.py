"""Several threads, each running one piece at a time.

torch and NumPy release the interpreter's lock inside their kernels, so threads share one
mapping of the inputs and need no copies between processes. Pieces of jobs that are under
way come before new jobs, so few jobs are open at once.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import torch

from cermet.core.later import loaded
from cermet.engine.executors import Stage, Staged

__all__ = ["Threads"]


@dataclass(slots=True)
class _Open:
    """A job that is under way, and how many pieces of its stage are not done."""

    stages: Iterator[Stage]
    left: int = 0


class Threads:
    """Runs jobs on `count` threads."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._lock = threading.Condition()
        self._ready: deque[tuple[_Open, Callable[[], None]]] = deque()
        self._jobs: Iterator[Staged] = iter(())
        self._advancing = 0
        self._running = 0
        self._error: BaseException | None = None

    def relay(self, function: Callable[..., None]) -> Callable[..., None]:
        """The function itself; it is called from several threads."""
        return function

    def run(self, jobs: Iterable[Staged]) -> None:
        """Run every piece of every job; the first error stops all and is raised."""
        self._jobs = iter(jobs)
        # Thread.join takes a thread for dead when Ctrl-C interrupts it, so each tells itself
        # that it has ended; one that is inside torch when Python exits would abort the process.
        ends = [threading.Event() for _ in range(self.count)]
        threads = [threading.Thread(target=self._work, args=(end,)) for end in ends]
        try:
            for thread in threads:
                thread.start()
            for end in ends:
                end.wait()
        except BaseException as error:
            self._stop(error)
            _wait([e for t, e in zip(threads, ends, strict=True) if t.ident is not None])
        for thread in threads:
            if thread.ident is not None:
                thread.join()
        if self._error is not None:
            raise self._error

    def _stop(self, error: BaseException) -> None:
        with self._lock:
            self._error = self._error or error
            self._ready.clear()
            self._lock.notify_all()

    def _work(self, end: threading.Event) -> None:
        try:
            # MKL keeps the number of its threads for each thread that calls it. What `one_thread`
            # has said does not hold here, and products would round by the number of cores.
            if loaded("torch"):
                torch.set_num_threads(1)
            while (next_piece := self._take()) is not None:
                job, piece = next_piece
                piece()
                with self._lock:
                    self._running -= 1
                    job.left -= 1
                    finished = job.left == 0
                    self._advancing += finished
                    self._lock.notify_all()
                if finished:
                    self._advance(job)
        except BaseException as error:
            self._stop(error)
        finally:
            end.set()

    def _take(self) -> tuple[_Open, Callable[[], None]] | None:
        """The next piece; None when there is nothing left, or the run has failed."""
        while True:
            with self._lock:
                while True:
                    if self._error is not None:
                        return None
                    if self._ready:
                        self._running += 1
                        return self._ready.popleft()
                    job = next(self._jobs, None)
                    if job is not None:
                        self._advancing += 1
                        break
                    if not self._advancing and not self._running:
                        return None
                    self._lock.wait()
            self._advance(_Open(job.stages()))

    def _advance(self, job: _Open) -> None:
        """Make the pieces of a job's next stage that has any ready to be taken."""
        stage: Stage = []
        try:
            for stage in job.stages:
                if stage:
                    break
        finally:
            with self._lock:
                job.left = len(stage)
                self._ready.extendleft((job, piece) for piece in reversed(stage))
                self._advancing -= 1
                self._lock.notify_all()


def _wait(ends: list[threading.Event]) -> None:
    """Wait for threads to finish their pieces, however often Ctrl-C is pressed."""
    while not all(end.is_set() for end in ends):
        with suppress(KeyboardInterrupt):
            for end in ends:
                end.wait()
