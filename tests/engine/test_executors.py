"""Both executors run every piece once, stage after stage; the first error ends the run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cermet.engine.executors import Executor, Stage
from cermet.engine.executors.serial import Serial
from cermet.engine.executors.threads import Threads

_EXECUTORS: dict[str, Callable[[], Executor]] = {
    "serial": Serial,
    "one thread": lambda: Threads(1),
    "two threads": lambda: Threads(2),
    "eight threads": lambda: Threads(8),
}
_every = pytest.mark.parametrize("executor", _EXECUTORS)
_PATIENCE = 20.0


@dataclass
class _Job:
    """Stages of so many pieces; each piece is told to `act` with its stage and number."""

    name: str
    sizes: list[int]
    act: Callable[[str, int, int], None]
    finished: list[int] = field(default_factory=list)

    def stages(self) -> Iterator[Stage]:
        for stage, size in enumerate(self.sizes):
            done: list[int] = []
            yield [self._piece(stage, number, done) for number in range(size)]
            assert len(done) == size, "the next stage was asked for too early"
            self.finished.append(stage)

    together: bool = False

    @property
    def numel(self) -> int:
        return sum(self.sizes)

    def _piece(self, stage: int, number: int, done: list[int]) -> Callable[[], None]:
        def piece() -> None:
            self.act(self.name, stage, number)
            done.append(number)

        return piece


def _nothing(name: str, stage: int, number: int) -> None:
    pass


def _within(seconds: float, work: Callable[[], None]) -> None:
    """Run something in a thread; a deadlock fails the test instead of stopping all tests."""
    caught: list[BaseException] = []

    def watched() -> None:
        try:
            work()
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=watched, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "deadlock"
    if caught:
        raise caught[0]


@_every
@given(sizes=st.lists(st.lists(st.integers(0, 4), max_size=4), max_size=6))
def test_every_piece_once(executor: str, sizes: list[list[int]]) -> None:
    seen: list[tuple[str, int, int]] = []
    jobs = [_Job(str(i), s, lambda *place: seen.append(place)) for i, s in enumerate(sizes)]
    _within(_PATIENCE, lambda: _EXECUTORS[executor]().run(iter(jobs)))
    wanted = [
        (str(i), stage, number)
        for i, stages in enumerate(sizes)
        for stage, size in enumerate(stages)
        for number in range(size)
    ]
    assert sorted(seen) == sorted(wanted)
    assert all(job.finished == list(range(len(job.sizes))) for job in jobs)


class _Broken(BaseException):
    """Not an Exception, as KeyboardInterrupt is not."""


@_every
@pytest.mark.parametrize("kind", [ValueError, _Broken])
@pytest.mark.parametrize("place", [(0, 0), (1, 1), (2, 3)])
def test_an_error_of_a_piece_is_raised(
    executor: str, kind: type[BaseException], place: tuple[int, int]
) -> None:
    def act(name: str, stage: int, number: int) -> None:
        if (name, stage, number) == ("3", *place):
            raise kind("this one")

    jobs = [_Job(str(i), [1, 2, 4], act) for i in range(50)]
    with pytest.raises(kind, match="this one"):
        _within(_PATIENCE, lambda: _EXECUTORS[executor]().run(jobs))
    assert jobs[3].finished == list(range(place[0]))
    assert jobs[-1].finished == [], "the run went on after its error"


@_every
def test_an_error_between_stages_is_raised(executor: str) -> None:
    """A fit fails there; and so does a job that cannot even be made."""

    class Failing(_Job):
        def stages(self) -> Iterator[Stage]:
            yield from super().stages()
            raise ValueError("no fit")

    with pytest.raises(ValueError, match="no fit"):
        _within(_PATIENCE, lambda: _EXECUTORS[executor]().run([Failing("a", [2], _nothing)]))

    def jobs() -> Iterator[_Job]:
        yield _Job("a", [3], _nothing)
        raise ValueError("no job")

    with pytest.raises(ValueError, match="no job"):
        _within(_PATIENCE, lambda: _EXECUTORS[executor]().run(jobs()))


def test_all_threads_have_ended_when_an_error_is_raised() -> None:
    """So nothing is written after the files are closed."""
    late: list[float] = []

    def act(name: str, stage: int, number: int) -> None:
        if number == 0:
            raise ValueError("first")
        time.sleep(0.05)
        late.append(time.monotonic())

    with pytest.raises(ValueError, match="first"):
        Threads(4).run([_Job("a", [40], act)])
    ended = time.monotonic()
    time.sleep(0.1)
    assert all(moment <= ended for moment in late)
    assert len(late) <= 4


def test_open_jobs_come_first() -> None:
    """Few jobs are under way at once, so what they keep in memory does not add up."""
    begun: list[str] = []
    most = 0
    lock = threading.Lock()
    jobs: list[_Job] = []

    def act(name: str, stage: int, number: int) -> None:
        nonlocal most
        with lock:
            if name not in begun:
                begun.append(name)
            ended = sum(len(job.finished) == 3 for job in jobs)
            most = max(most, len(begun) - ended)
        time.sleep(0.0005)

    jobs.extend(_Job(str(i), [1, 5, 3], act) for i in range(20))
    Threads(2).run(iter(jobs))
    assert begun[:2] == ["0", "1"]
    assert most <= 3


def test_jobs_are_made_when_they_are_needed() -> None:
    """A plan of thousands of tensors is not opened at once."""
    ahead: list[int] = []
    made, ended = 0, 0

    def act(name: str, stage: int, number: int) -> None:
        nonlocal ended
        ended += 1
        ahead.append(made - ended)

    def jobs() -> Iterator[_Job]:
        nonlocal made
        for i in range(200):
            made += 1
            yield _Job(str(i), [1], act)

    Threads(2).run(jobs())
    assert max(ahead) <= 4


def test_pieces_run_at_the_same_time() -> None:
    """Two pieces that wait for each other end only where two threads run them."""
    meeting = threading.Barrier(2, timeout=_PATIENCE)
    Threads(2).run([_Job("a", [2, 2], lambda *place: meeting.wait() and None)])
    assert meeting.broken is False
