"""Several processes, each running whole jobs: the interpreter's lock binds none to another.

A block of a cheap method takes torch some tens of microseconds, after which a thread waits for
the lock; measured, sixteen threads of one process are hardly faster than two. Processes that
are forked from this one share its mapped inputs and the files that it has opened. What a job
reports is sent back and told here, so one process alone keeps the journal.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from cermet.core.errors import CermetError, MachineError, MethodError
from cermet.engine.executors import Staged
from cermet.engine.executors.threads import Threads

__all__ = ["Processes", "can_fork"]

_PARENT_DEATH = 1  # PR_SET_PDEATHSIG of prctl(2)
# A worker's reports wait for more, as each costs both sides a turn: for this share of the time
# since it began, so that the journal of a short run has many steps too, but not for longer.
_PATIENCE, _LONGEST = 0.01, 0.02  # a share; seconds


def can_fork() -> bool:
    """Whether this process may be forked: on Linux, and while it has one thread."""
    return sys.platform == "linux" and threading.active_count() == 1


class Processes:
    """Runs jobs in `count` processes; what spans several tensors, in as many threads here."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._told: list[Callable[..., None]] = []
        self._up: Connection | None = None  # in a worker: the way to the process above
        self._waiting: list[tuple[int, tuple[Any, ...]]] = []  # reports that are not sent yet
        self._began = self._sent = 0.0  # when it began to work, and sent the last ones

    def relay(self, function: Callable[..., None]) -> Callable[..., None]:
        """A function whose calls, in whatever process, happen in this one."""
        key = len(self._told)
        self._told.append(function)

        def told(*arguments: Any) -> None:
            if self._up is None:
                function(*arguments)
                return
            self._waiting.append((key, arguments))
            now = time.monotonic()
            if now - self._sent >= min((now - self._began) * _PATIENCE, _LONGEST):
                self._send()

        return told

    def _send(self, *, end: bool = False, error: BaseException | None = None) -> None:
        """Send what a worker has to report, and perhaps that it ends, and why."""
        assert self._up is not None
        self._up.send((self._waiting, end, error))
        self._waiting, self._sent = [], time.monotonic()

    def run(self, jobs: Iterable[Staged]) -> None:
        """Run every piece of every job; the first error ends all processes and is raised."""
        divisible: list[Staged | None] = []  # the only list of them: a worker takes them out
        rest: list[Staged] = []
        for job in jobs:
            (rest if job.together else divisible).append(job)
        # What is long is begun first, so that no process is left with it at the end.
        divisible.sort(key=lambda job: -job.numel if job else 0)
        if divisible:
            self._divide(divisible)
        if rest:
            Threads(self.count).run(rest)

    def _divide(self, jobs: list[Staged | None]) -> None:
        context = multiprocessing.get_context("fork")
        taken = context.Value("l", 0)
        workers: list[Any] = []
        ways: list[Connection] = []
        try:
            for _ in range(min(self.count, len(jobs))):
                down, up = context.Pipe(duplex=False)
                worker = context.Process(
                    target=self._work, args=(jobs, taken, up, [*ways, down], os.getpid())
                )
                workers.append(worker)
                ways.append(down)
                worker.start()
                up.close()
            self._listen(ways)
        finally:
            for worker in workers:
                if worker.pid is not None:
                    worker.kill()  # one that has ended already does not mind
                    worker.join()
            for way in ways:
                way.close()

    def _listen(self, ways: Sequence[Connection]) -> None:
        """Tell what workers report, until each has said that it has ended."""
        going: list[Any] = list(ways)
        while going:
            for way in wait(going):
                assert isinstance(way, Connection)
                try:
                    reports, end, error = way.recv()
                except EOFError as ended:
                    raise MachineError(
                        "A worker process was ended from outside, perhaps for lack of memory: use "
                        "fewer --threads or less --memory, and continue with --resume."
                    ) from ended
                for key, arguments in reports:
                    self._told[key](*arguments)
                if error is not None:
                    raise error
                if end:
                    going.remove(way)

    # -- in a worker ------------------------------------------------------------

    def _work(
        self,
        jobs: list[Staged | None],
        taken: Any,
        up: Connection,
        others: Sequence[Connection],
        parent: int,
    ) -> None:
        _end_with(parent)
        for way in others:
            way.close()
        self._up, self._began = up, time.monotonic()
        try:
            for index in _indices(taken, len(jobs)):
                job, jobs[index] = jobs[index], None  # with it go its masks, when it is done
                assert job is not None
                for stage in job.stages():
                    for piece in stage:
                        piece()
            self._send(end=True)
        except BrokenPipeError:
            pass  # nobody is left to tell
        except BaseException as error:
            with contextlib.suppress(BrokenPipeError):
                self._send(end=True, error=_sendable(error))


def _indices(taken: Any, count: int) -> Iterator[int]:
    """The next job that no worker has taken, until there is none."""
    while True:
        with taken.get_lock():
            index = taken.value
            taken.value += 1
        if index >= count:
            return
        yield index


def _end_with(parent: int) -> None:
    """Leave Ctrl-C to the process above, and end when it does, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_PARENT_DEATH, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _sendable(error: BaseException) -> BaseException:
    """The error itself if it survives being sent, else one that says the same."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        kind = MethodError if isinstance(error, CermetError) else RuntimeError
        return kind(f"{type(error).__name__}: {error}")
    return error
