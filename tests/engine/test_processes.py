"""Worker processes: every job once, reports and errors arrive, and no worker outlives its run."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cermet.core.errors import MachineError, MismatchError
from cermet.engine.executors import Stage
from cermet.engine.executors.processes import Processes, can_fork

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux")


@dataclass
class _Job:
    name: str
    act: Callable[[str, int], None]
    numel: int = 1
    together: bool = False

    def stages(self) -> Iterator[Stage]:
        for stage in range(2):
            yield [lambda stage=stage: self.act(self.name, stage)]  # type: ignore[misc]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_job_once_and_its_reports_are_told_here(count: int) -> None:
    executor, seen = Processes(count), []
    report = executor.relay(lambda name, stage, pid: seen.append((name, stage, pid)))
    jobs = [_Job(str(i), lambda n, s: report(n, s, os.getpid()), i) for i in range(20)]
    executor.run(iter(jobs))
    assert sorted((n, s) for n, s, _ in seen) == sorted(
        (str(i), s) for i in range(20) for s in (0, 1)
    )
    workers = {pid for _, _, pid in seen}
    assert os.getpid() not in workers
    assert 1 <= len(workers) <= count
    assert {name for name, _, pid in seen[:2]} & {"19", "18", "17", "16", "15"}, "long jobs first"
    assert multiprocessing.active_children() == []


def test_a_worker_lets_go_of_what_it_has_done() -> None:
    """A job keeps the masks of its tensor, which together take more than any budget."""
    executor, alive = Processes(2), []
    report = executor.relay(alive.append)
    known: list[weakref.ref[_Job]] = []

    def jobs() -> Iterator[_Job]:
        for i in range(40):
            job = _Job(str(i), lambda n, s: report(sum(r() is not None for r in known)))
            known.append(weakref.ref(job))
            yield job

    executor.run(jobs())
    assert len(alive) == 80
    assert min(alive) <= 21, "each of two has done about half of them"


def test_what_spans_tensors_runs_here_and_last() -> None:
    executor, seen = Processes(2), []
    report = executor.relay(lambda name, pid: seen.append((name, pid)))
    whole = _Job("whole", lambda n, s: report(n, os.getpid()), 99, together=True)
    executor.run([whole, *(_Job(str(i), lambda n, s: report(n, os.getpid())) for i in range(4))])
    assert seen[-2:] == [("whole", os.getpid())] * 2
    assert all(pid != os.getpid() for _, pid in seen[:-2])


def test_an_error_ends_all_and_is_raised() -> None:
    def act(name: str, stage: int) -> None:
        if name == "3":
            raise MismatchError("this one")
        time.sleep(0.02)

    began = time.monotonic()
    with pytest.raises(MismatchError, match="this one"):
        Processes(2).run([_Job(str(i), act, 100 - i) for i in range(1000)])
    assert time.monotonic() - began < 15
    assert multiprocessing.active_children() == []


def test_an_error_that_cannot_be_sent_is_told_in_words() -> None:
    class Local(Exception):
        pass

    def act(name: str, stage: int) -> None:
        raise Local("of this test")

    with pytest.raises(RuntimeError, match="Local: of this test"):
        Processes(2).run([_Job("a", act), _Job("b", act)])


def test_a_worker_that_is_killed_is_an_error_of_the_machine() -> None:
    def act(name: str, stage: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(MachineError, match="ended from outside"):
        Processes(2).run([_Job("a", act), _Job("b", act)])


_ORPHANS = """
import os, signal, time
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell began the tests
from cermet.engine.executors.processes import Processes

class Job:
    name, numel, together = "a", 1, False
    def stages(self):
        yield [self.act]
    def act(self):
        Path(os.environ["PIDS"], str(os.getpid())).touch()
        time.sleep(60)

Processes(2).run([Job(), Job()])
"""


def _gone(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat")
    try:
        return state.read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_run(how: signal.Signals, tmp_path: Path) -> None:
    environment = {**os.environ, "PIDS": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-c", _ORPHANS], env=environment, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    pids = [int(path.name) for path in tmp_path.iterdir()]
    assert len(pids) == 2
    process.send_signal(how)
    process.wait(20)
    while not all(map(_gone, pids)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert all(map(_gone, pids))


def test_a_process_with_threads_is_not_forked() -> None:
    end = threading.Event()
    other = threading.Thread(target=end.wait)
    other.start()
    try:
        assert can_fork() is False
    finally:
        end.set()
        other.join()
