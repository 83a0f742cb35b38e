"""A progress bar on a terminal; silence everywhere else."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["Bar", "parts", "steps"]


class Bar:
    """Tensors, bytes, rate and time left."""

    def __init__(self, verb: str) -> None:
        self._verb = verb
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._tensors, self._seen = 0, set[str]()
        self._lock = threading.Lock()

    def start(self, total: int, tensors: int) -> None:
        """Show the bar, if there is somebody to see it."""
        if not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._tensors = tensors
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._progress.add_task(self._verb, total=total)

    def advance(self, tensor: str, nbytes: int) -> None:
        """More bytes of a tensor are finished."""
        if self._progress is None or self._task is None:
            return
        with self._lock:
            if not self._seen:  # not before: the thread of a bar would forbid worker processes
                self._progress.start()
            self._seen.add(tensor)
            text = f"{self._verb} {len(self._seen)}/{self._tensors} tensors"
        self._progress.update(self._task, advance=nbytes, description=text)

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._progress.stop()


@contextmanager
def steps(verb: str, total: int) -> Iterator[Callable[[int, float], None]]:
    """A bar of steps for learning; what it gives is told the steps done and the last loss."""
    if not sys.stderr.isatty():
        yield lambda done, loss: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(verb, total=total)
        yield lambda done, loss: bar.update(
            task, completed=done, description=f"{verb}, loss {loss:.3f}"
        )


@contextmanager
def parts() -> Iterator[Callable[[str], Callable[[int, int], None]]]:
    """Bars one after the other: given what begins, a call that is told the parts done of all."""
    if not sys.stderr.isatty():
        yield lambda name: lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress

    # A stream that is held: what runs meanwhile may close standard error to a talkative library.
    with Progress(console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task("", total=None)

        def begin(name: str) -> Callable[[int, int], None]:
            bar.reset(task, description=name, total=None)
            return lambda done, total: bar.update(task, completed=done, total=total)

        yield begin
