"""Runs one command and measures it: wall seconds, private memory, exit status."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.cgroup import Cage
from parity.peer import ROOT

__all__ = ["Run", "run_command"]

_INTERVAL = 0.02  # seconds between two looks at the memory


@dataclass(frozen=True, slots=True)
class Run:
    """One command, measured.

    seconds: wall time, start-up and exit included. anonymous: peak of RssAnon over the
    process and its children, bytes; sampled, so a spike below 20 ms may be missed.
    problem: the end of its error output where it failed, else None.
    """

    seconds: float
    anonymous: int
    problem: str | None = None


def run_command(
    command: Sequence[str], environment: Mapping[str, str], cage: Cage | None = None
) -> Run:
    """Run a command to its end, in a cage where one is given."""
    wrapped = list(command) if cage is None else cage.wrap(command)
    began = time.perf_counter()
    process = subprocess.Popen(
        wrapped,
        cwd=ROOT,
        env=dict(environment),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    sampler = _Sampler(process.pid)
    sampler.start()
    _, errors = process.communicate()
    seconds = time.perf_counter() - began
    sampler.stop()
    problem = None
    if process.returncode:
        problem = f"exit {process.returncode}: {errors.strip()[-500:]}"
    return Run(seconds, sampler.peak, problem)


class _Sampler(threading.Thread):
    """Looks at the private memory of a process and its children until stopped."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self._pid = pid
        self._done = threading.Event()

    def run(self) -> None:
        while not self._done.wait(_INTERVAL):
            self.peak = max(self.peak, sum(map(_anonymous, _family(self._pid))))

    def stop(self) -> None:
        self._done.set()
        self.join()


def _family(pid: int) -> list[int]:
    """The process and all that descend from it."""
    found = [pid]
    for member in found:
        try:
            for task in os.listdir(f"/proc/{member}/task"):
                children = Path(f"/proc/{member}/task/{task}/children").read_text()
                found += map(int, children.split())
        except OSError:  # it has ended since
            continue
    return found


def _anonymous(pid: int) -> int:
    """RssAnon of a process in bytes; 0 where it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    for line in status.splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0
