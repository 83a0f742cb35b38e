"""How much memory a run may take, and how it keeps what it has."""

from __future__ import annotations

import ctypes
import math
import multiprocessing
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cermet.core.cover import plain_sum, workspace_of
from cermet.core.errors import BudgetError, InputError
from cermet.core.registry import Method, Need
from cermet.core.types import Place
from cermet.engine.geometry import LEAF

__all__ = [
    "DEFAULT_BUDGET",
    "MemoryGauge",
    "available_memory",
    "block_bytes",
    "block_elements",
    "keep_freed_memory",
    "parse_size",
]

DEFAULT_BUDGET = 1_000_000_000
"""Bytes of working memory that a merge may take, beside Python and torch themselves."""

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_UNITS |= {f"{unit}I": 1 << (10 * power) for power, unit in enumerate("KMGT", start=1)}
_STATUS = Path("/proc/self/status")
_MACHINE = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")  # a container's limits
_BEST = 4 * LEAF  # elements of a block for which measured throughput is best
_WHOLE = 16 * LEAF  # a piece, where blocks cost by their number: on a GPU, in compiled kernels
_MOST = 32 * LEAF  # elements of all models together: glibc holds several blocks of each thread


def parse_size(text: str) -> int:
    """Bytes of a size such as `256MB`, `2GB`, `1.5GiB` or `5000000`."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?\s*", text.upper())
    size = 0.0 if found is None else float(found[1]) * _UNITS.get(found[2], 0)
    if not 1 <= size < 1 << 63:
        raise InputError(f"'{text}' is not a size. Write it as 256MB, 2GB or 1.5GiB.")
    return int(size)


def block_bytes(method: Method, models: int, place: Place | None = None, **known: Any) -> float:
    """Bytes of memory for each element of a block: models, base, result and statistics.

    `place` and the parameters in `known`: of the tensor; without a place, the most of any.
    """
    summed = bool(place and plain_sum(method, place=place, count=models, **known) is not None)
    sizes = [(n.per_model, _size(n, place)) for n in method.needs if n.wanted(plain=summed)]
    experts, shared = (sum(s for each, s in sizes if each is kind) for kind in (True, False))
    if summed or (method.coefficients is not None and not method.rounds):
        models, workspace = 1, 1.0  # a sum takes the models one by one
    else:
        workspace = workspace_of(method, models, place)
    return 4 * (models * (1.0 + workspace + experts) + 2 + shared)


def _size(need: Need, place: Place | None) -> float:
    """Elements of a statistic for each element of its tensor."""
    numel = 0 if place is None else math.prod(place.shape)
    return 1.0 if place is None or not numel else math.prod(need.shape(place)) / numel


def block_elements(
    method: Method,
    models: int,
    unit: int,
    budget: int,
    threads: int,
    tensor: str,
    *,
    whole: bool = False,
    place: Place | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> int:
    """Elements of a block for which every thread stays inside its share of the budget.

    `unit` is the number of elements that the method must see together. `whole`: whether blocks
    as large as pieces are worked on as fast as smaller ones.
    """
    bytes_each = block_bytes(method, models, place, **(parameters or {}))
    share = budget / threads
    fitting = int(share / bytes_each)
    if fitting < unit:
        raise BudgetError(
            f"Tensor '{tensor}' needs {unit:,} elements of {models} models at once for "
            f"'{method.name}': {unit * bytes_each * threads / 1e6:,.0f} MB on {threads} threads, "
            f"but the budget is {budget / 1e6:,.0f} MB. Give more with --memory, or use fewer "
            "--threads."
        )
    best = _WHOLE if whole else min(_BEST, _MOST // models)
    return max(unit, min(best, fitting))


def keep_freed_memory() -> None:
    """Let the allocator keep freed blocks for the next block (glibc only).

    By default glibc gives every freed buffer of this size back to the kernel, which then
    has to clear it again for the next block: measured, ten times the cost of the work.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3
        mallopt(mmap_threshold, 64 << 20)
        mallopt(trim_threshold, 256 << 20)


class MemoryGauge:
    """The largest private memory of this process and its workers that was seen.

    On Linux; elsewhere 0. What a worker shares with this process counts for each of them.
    """

    def __init__(self) -> None:
        self.peak = 0
        self._count = 0
        self.look()

    def look(self) -> None:
        """Read the current figure, every few calls."""
        self._count += 1
        if self._count % 8 != 1 or not _STATUS.is_file():
            return
        workers = [Path(f"/proc/{w.pid}/status") for w in multiprocessing.active_children()]
        self.peak = max(self.peak, sum(map(_anonymous, [_STATUS, *workers])))


def _anonymous(status: Path) -> int:
    """Bytes of private memory that a status file tells; 0 where its process has ended."""
    found = re.search(r"RssAnon:\s*(\d+) kB", _text(status))
    return int(found[1]) * 1024 if found else 0


def available_memory() -> int | None:
    """Bytes that could be taken without swapping (Linux; elsewhere None): the machine's or, where
    that is less, those that are left to this process's group.
    """
    found = re.search(r"^MemAvailable:\s*(\d+) kB", _text(_MACHINE), re.MULTILINE)
    if found is None:
        return None
    machine = int(found[1]) * 1024
    limit, used = _text(_GROUP / "memory.max").strip(), _text(_GROUP / "memory.current").strip()
    if not limit.isdecimal() or not used.isdecimal():
        return machine
    cached = re.search(r"^inactive_file (\d+)", _text(_GROUP / "memory.stat"), re.MULTILINE)
    return min(machine, int(limit) - int(used) + (int(cached[1]) if cached else 0))


def _text(path: Path) -> str:
    """A file of the kernel's; nothing where it is missing."""
    try:
        return path.read_text()
    except OSError:
        return ""
