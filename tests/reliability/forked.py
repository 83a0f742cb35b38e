"""The `cermet` command in a process of its own that is forked from one that has imported it.

What is killed is a real process that runs the command from its arguments to its exit. Only the
imports are spared, which take longer than all that these tests are about.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

__all__ = ["Forked"]

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["cermet.api", "cermet.cli.app", "tests.reliability.forked"])


class Forked:
    """A running command, with what the tests use of `subprocess.Popen`."""

    def __init__(self, *arguments: str | Path) -> None:
        said, self._said = tempfile.mkstemp()
        os.close(said)
        words = [str(argument) for argument in arguments]
        self._process = _SERVER.Process(target=_command, args=(words, self._said))
        self._process.start()

    @property
    def returncode(self) -> int | None:
        """The exit code, or minus the signal that ended it; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The same."""
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Nothing where the process has ended."""
        if self.poll() is None and self._process.pid is not None:
            os.kill(self._process.pid, number)

    def kill(self) -> None:
        """As `kill -9` does."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float) -> tuple[str, str]:
        """Wait for the end; what was printed, and nothing else."""
        self._process.join(timeout)
        if self.poll() is None:
            self.kill()
            raise subprocess.TimeoutExpired("cermet", timeout)
        text = Path(self._said).read_text("utf-8")
        os.unlink(self._said)
        return text, ""


def _command(words: list[str], said: str) -> None:
    target = os.open(said, os.O_WRONLY | os.O_APPEND)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.environ["HF_HUB_OFFLINE"] = "1"
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["cermet", *words]
    from cermet.cli.app import main

    main()
