"""Running a codec over a whole model: passes before, encoding, and laying out what came of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from cermet.checkpoints.dtypes import SIZES
from cermet.checkpoints.quantised import repeatable
from cermet.checkpoints.reader import Checkpoint
from cermet.checkpoints.writer import Layout
from cermet.core.codec import CHUNK, Codec, Extra, Otherwise
from cermet.core.errors import BudgetError, InputError, MismatchError
from cermet.core.fingerprint import digest_hex
from cermet.core.registry import Method, call
from cermet.engine.archive import Entry, How
from cermet.engine.blocks import Input
from cermet.engine.encode import EncodeJob, Spool
from cermet.engine.executors import one_thread
from cermet.engine.folder import OutputFolder
from cermet.engine.gather import Part, gather, stored
from cermet.engine.group import Group
from cermet.engine.job import Job
from cermet.engine.memory import MemoryGauge, keep_freed_memory
from cermet.engine.options import Options, executor_for
from cermet.engine.pairs import Pair
from cermet.engine.target import MemoryTarget

__all__ = ["Encoded", "Work", "coded", "encode", "how_of", "workers_for"]

_SPOOL = "spool"


@dataclass(frozen=True)
class Work:
    """What is to be compressed, and how; extras: name -> the file that holds them."""

    codec: Codec
    parameters: Mapping[str, Any]  # by argument
    expert: Checkpoint
    base: Checkpoint
    pairs: Sequence[Pair]
    rest: Otherwise
    seed: int
    extras: Mapping[str, Checkpoint] = field(default_factory=dict)

    @property
    def stem(self) -> str:
        """What the names of the files of the parts begin with."""
        return "adapter_model" if self.codec.adapter else "delta"


@dataclass(frozen=True)
class Encoded:
    """What has been written: the files, and an entry for each tensor.

    delta, error: squares of each tensor's change, and of what is wrong with it when restored.
    """

    layout: Layout | None
    entries: Mapping[str, Entry]
    delta: Mapping[str, float]
    error: Mapping[str, float]
    bound: float | None
    seconds: float
    sync_seconds: float
    peak_bytes: int


def coded(work: Work, pair: Pair) -> bool:
    """Whether the codec encodes a tensor."""
    return not pair.plain and bool(call(work.codec.covers, **_covering(work, pair.place)))


def _covering(work: Work, place: Any) -> dict[str, Any]:
    return {**work.parameters, "place": place}


def how_of(work: Work, pair: Pair) -> How:
    """What is kept of a tensor, as far as headers tell."""
    if pair.plain:
        return "expert"
    return "coded" if coded(work, pair) else work.rest


def workers_for(
    codec: Codec, tensors: Mapping[str, int], options: Options, *, beside: float
) -> int:
    """Threads that fit into the memory given; BudgetError where not one does.

    tensors: what is encoded or decoded -> its elements. beside: blocks besides the codec's own.
    """
    name, numel = max(tensors.items(), key=lambda item: item[1], default=("", 0))
    unit = min(numel, CHUNK) if codec.grain == "element" else numel
    needed = max(1, int(4 * unit * (codec.workspace + beside)))
    fitting = options.memory // needed
    if fitting < 1:
        raise BudgetError(
            f"Tensor '{name}' needs {needed / 1e6:,.0f} MB at once for '{codec.name}', but the "
            f"budget is {options.memory / 1e6:,.0f} MB. Give more with --memory."
        )
    return min(options.workers(), fitting)


def encode(
    work: Work,
    folder: OutputFolder,
    options: Options,
    progress: Callable[[str, int], None] | None = None,
) -> Encoded:
    """Encode every tensor and write the parts into the working folder of an output.

    `progress` gets the name of a tensor and how many of the expert's bytes are done.
    """
    sizes = {p.place.name: math.prod(p.place.shape) for p in work.pairs if coded(work, p)}
    if not sizes:
        raise InputError(
            f"'{work.codec.name}' covers no tensor of '{work.expert.path}'; choose another codec."
        )
    workers = workers_for(work.codec, sizes, options, beside=4.0)
    _check_space(work, folder)
    keep_freed_memory()
    began = time.perf_counter()
    folder.clear()
    gauge, device = MemoryGauge(), options.device

    def told(name: str, nbytes: int) -> None:
        gauge.look()
        if progress is not None:
            progress(name, nbytes)

    spool = Spool(folder.work / _SPOOL)
    try:
        with one_thread():
            executor = executor_for(workers)
            states = _states(work, executor_for(workers), device)
            jobs = [_job(work, pair, states, spool, device, partial(told, pair.place.name))
                    for pair in work.pairs]  # fmt: skip
            executor.run(jobs)
            adapter = {p.place.name: p.tied for p in work.pairs} if work.codec.adapter else None
            files, parts, synced = gather(jobs, spool, folder, options, adapter)
    finally:
        spool.close()
    return Encoded(
        files,
        {job.name: _entry(work, job, pair, parts)
         for job, pair in zip(jobs, work.pairs, strict=True)},
        {job.name: job.delta for job in jobs},
        {job.name: job.error for job in jobs},
        _bound(work, states),
        time.perf_counter() - began - synced,
        synced,
        gauge.peak,
    )  # fmt: skip


def _bound(work: Work, states: Mapping[str, dict[str, Any]]) -> float | None:
    """The entropy of a codec's code, bits a weight, where it tells one."""
    if work.codec.bound is None:
        return None
    state = next(iter(states.values()), {})
    return float(call(work.codec.bound, **work.parameters, **state))


def _check_space(work: Work, folder: OutputFolder) -> None:
    """Refuse a disk that cannot hold the parts, which are there twice until all are finished."""
    needed = 0
    for pair in work.pairs:
        how, itemsize = how_of(work, pair), SIZES[pair.dtype]
        if how == "expert":
            needed += 2 * itemsize * math.prod(pair.place.shape)
        elif how == "coded" and work.codec.size is not None:
            known = {**work.parameters, "place": pair.place, "itemsize": itemsize}
            needed += 2 * int(call(work.codec.size, **known))
    folder.check_space(needed)


# -- passes before ------------------------------------------------------------


def _states(work: Work, executor: Any, device: str) -> dict[str, dict[str, Any]]:
    """What the rounds of a codec have found, for each tensor that it encodes."""
    if not work.codec.rounds:
        return {}
    method, nothing = _as_method(work.codec), MemoryTarget(torch.empty(0))
    jobs = [
        Job(
            pair.place.name, pair.place.shape, method,
            [Input(work.expert, pair.place.name)], Input(work.base, pair.base),
            work.parameters, nothing, device=device, place=pair.place, block=CHUNK,
        )
        for pair in work.pairs if coded(work, pair)
    ]  # fmt: skip
    executor.run([Group(jobs, finish=())])
    return {job.name: job.state for job in jobs}


def _as_method(codec: Codec) -> Method:
    """The rounds of a codec, as those of a method that is never asked to merge."""
    return Method(
        name=codec.name, function=codec.function, on="deltas", base="required",
        grain=lambda: "element", rounds=codec.rounds, mask=None, fit=None, coefficients=None,
        models=(1, 1), draws={}, workspace=lambda: codec.workspace, source=codec.source, check=None,
        accepts={}, parameters=codec.parameters, properties=frozenset(),
    )  # fmt: skip


# -- encoding -----------------------------------------------------------------


class _Endings(Mapping[str, "torch.Tensor"]):
    """The statistics of one tensor by their endings, read when they are asked for."""

    def __init__(self, held: Checkpoint, tensor: str, extra: Extra, device: str) -> None:
        self._held, self._tensor, self._endings = held, tensor, extra.endings
        self._device = device

    def __getitem__(self, ending: str) -> torch.Tensor:
        info = self._held.tensors[self._tensor + ending]
        stored = self._held.block(info.name, 0, info.numel).reshape(info.shape)
        return stored.to(self._device).float()

    def __iter__(self) -> Iterator[str]:
        return iter(self._endings)

    def __len__(self) -> int:
        return len(self._endings)


def _extras(work: Work, tensor: str, device: str) -> dict[str, _Endings | None]:
    found: dict[str, _Endings | None] = {}
    for extra in work.codec.extras:
        held = work.extras.get(extra.name)
        found[extra.name] = None if held is None else _Endings(held, tensor, extra, device)
        for ending in extra.endings if held is not None else ():
            if tensor + ending not in held.tensors:  # type: ignore[union-attr]
                raise MismatchError(
                    f"'{held.path}' holds no '{tensor}{ending}'; it must hold "  # type: ignore[union-attr]
                    f"{extra.about} for every tensor that '{work.codec.name}' encodes."
                )
    return found


def _job(
    work: Work,
    pair: Pair,
    states: Mapping[str, dict[str, Any]],
    spool: Spool,
    device: str,
    progress: Callable[[int], None],
) -> EncodeJob:
    name, how = pair.place.name, how_of(work, pair)
    known: dict[str, Any] = dict(work.parameters)
    numbers: Mapping[str, float] = {}
    if how == "coded":
        known |= states.get(name, {}) | _extras(work, name, device)
        if work.codec.fit is not None:
            numbers = call(work.codec.fit, **known, place=pair.place)
    return EncodeJob(
        pair.place, work.codec, how, Input(work.expert, name), Input(work.base, pair.base),
        known, numbers, spool, dtype=pair.dtype, seed=work.seed, device=device, progress=progress,
    )  # fmt: skip


def _entry(work: Work, job: EncodeJob, pair: Pair, parts: Mapping[tuple[str, str], Part]) -> Entry:
    base = work.base.tensors[pair.base].numel * work.base.block(pair.base, 0, 0).element_size()
    own = work.expert.tensors[job.name].nbytes
    total = job.digests.total
    return Entry(
        dtype=pair.dtype,
        shape=list(pair.place.shape),
        role=str(pair.place.role),
        how=job.how,
        base=pair.base,
        base_digest=digest_hex(total.get("base", 0), base) if repeatable(work.base) else None,
        expert_digest=digest_hex(total.get("expert", 0), own) if work.expert.exact else None,
        numbers=job.numbers,
        parts={part: stored(job, part, parts[job.name, part]) for part in job.parts},
    )
