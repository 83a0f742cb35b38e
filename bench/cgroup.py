"""A cage: a control group whose memory is limited, page cache included.

Three ways are tried: a group of our own in the unified hierarchy (memory.max), a group
inside the one of this process in the older memory hierarchy (memory.limit_in_bytes), and
`systemd-run --scope`. Where none works, the reason is given instead of a cage.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Cage", "open_cage"]

_UNIFIED = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Cage:
    """A way to run commands under a limit of memory.

    kind: how the limit is made, in words. prefix: what stands before the command. group:
    the folder of the group, removed by `close`.
    """

    kind: str
    prefix: tuple[str, ...]
    group: Path | None = None

    def wrap(self, command: Sequence[str]) -> list[str]:
        """The command as it runs inside of the cage."""
        return [*self.prefix, *command]

    def close(self) -> None:
        """Remove the group; its processes have ended."""
        if self.group is not None:
            self.group.rmdir()


def open_cage(limit: int) -> Cage | str:
    """A cage of `limit` bytes, or the reason why there can be none."""
    reasons = []
    for attempt in (_unified, _older, _systemd):
        found = attempt(limit)
        if isinstance(found, Cage):
            return found
        reasons.append(found)
    return "no control group can be made: " + "; ".join(reasons)


def _unified(limit: int) -> Cage | str:
    controllers = _UNIFIED / "cgroup.controllers"
    if not controllers.is_file():
        return f"'{_UNIFIED}' is not a unified hierarchy (cgroup v2)"
    if "memory" not in controllers.read_text().split():
        return f"'{_UNIFIED}' has no memory controller"
    group = _UNIFIED / f"cermet-bench-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        return f"'{group}' cannot be made ({error.strerror})"
    try:
        (group / "memory.max").write_text(str(limit))
        swap = group / "memory.swap.max"
        if swap.exists():
            swap.write_text("0")
    except OSError as error:
        group.rmdir()
        return f"'{group}' takes no limit ({error.strerror})"
    return Cage("cgroup v2 memory.max", _moved_into(group), group)


def _moved_into(group: Path) -> tuple[str, ...]:
    """A shell moves itself into the group, then becomes the command."""
    return ("/bin/sh", "-c", f'echo $$ > "{group}/cgroup.procs" && exec "$@"', "sh")


def _older(limit: int) -> Cage | str:
    own = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    path = next((p for _, controllers, p in own if "memory" in controllers.split(",")), None)
    if path is None:
        return "there is no memory hierarchy of cgroup v1"
    group = _UNIFIED / "memory" / path.lstrip("/") / f"cermet-bench-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        return f"'{group}' cannot be made ({error.strerror})"
    try:
        (group / "memory.limit_in_bytes").write_text(str(limit))
    except OSError as error:
        group.rmdir()
        return f"'{group}' takes no limit ({error.strerror})"
    return Cage("cgroup v1 memory.limit_in_bytes", _moved_into(group), group)


def _systemd(limit: int) -> Cage | str:
    run = shutil.which("systemd-run")
    if run is None:
        return "systemd-run is not installed"
    limits = ("-p", f"MemoryMax={limit}", "-p", "MemorySwapMax=0")
    whose = () if os.geteuid() == 0 else ("--user",)
    prefix = (run, *whose, "--no-ask-password", "--scope", "--quiet", *limits, "--")
    done = subprocess.run([*prefix, "true"], capture_output=True, text=True, check=False)
    if done.returncode:
        return f"systemd-run failed ({' '.join(done.stderr.split())[:80]})"
    return Cage("systemd-run MemoryMax", prefix)
