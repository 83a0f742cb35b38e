"""From the spool into the files of an archive: laying them out, and filling them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate

from cermet.checkpoints.adapter import adapter_name
from cermet.checkpoints.dtypes import SIZES, TORCH
from cermet.checkpoints.writer import Layout, ShardWriter, Slot, layout
from cermet.core.fingerprint import digest_hex
from cermet.core.types import Role
from cermet.engine.archive import Stored
from cermet.engine.encode import WHOLE, Chunk, EncodeJob, Spool, part_digest
from cermet.engine.folder import OutputFolder
from cermet.engine.job import Piece
from cermet.engine.options import Options, executor_for
from cermet.engine.restore import Digests

__all__ = ["TIED", "Part", "gather", "stored"]

TIED = "tied"
"""The part of an embedding that an adapter holds for the head that is tied to it."""

Ties = Mapping[str, str | None]
"""A tensor -> one that the model takes from it and does not store."""


class Part:
    """One part of one tensor on its way from the spool into its file."""

    together = False

    def __init__(
        self, name: str, slot: Slot, chunks: Sequence[Chunk], spool: Spool, writer: ShardWriter
    ) -> None:
        self.name, self.slot, self.chunks = name, slot, chunks
        self.spool, self.writer, self.digests = spool, writer, Digests()

    @property
    def numel(self) -> int:
        """Elements of the part."""
        return math.prod(self.slot.shape)

    @property
    def digest(self) -> str:
        """Digest of what has been written."""
        return digest_hex(self.digests.total.get("", 0), self.slot.nbytes)

    def stages(self) -> Iterator[list[Piece]]:
        """One stage of independent pieces."""
        start = 0
        pieces: list[Piece] = []
        for chunk in self.chunks:
            pieces.append(partial(self._move, chunk, start))
            start += chunk.count
        yield pieces

    def _move(self, chunk: Chunk, start: int) -> None:
        part = self.spool.get(chunk, TORCH[self.slot.dtype])
        self.digests.count("", part_digest(part, start))
        self.writer.put(self.name, start, part)


def gather(
    jobs: Sequence[EncodeJob],
    spool: Spool,
    folder: OutputFolder,
    options: Options,
    adapter: Ties | None,
) -> tuple[Layout | None, dict[tuple[str, str], Part], float]:
    """Lay out the files and fill them; the parts by tensor and name, and seconds of syncing.

    adapter: the tied tensors where the archive is a LoRA adapter, in one file under PEFT's names.
    """
    if adapter is not None:
        _add_tied(jobs, adapter)
    slots = _slots(jobs, adapter)
    if not slots:
        return None, {}, 0.0
    most = options.shard_size if adapter is None else sum(s.nbytes for s in slots.values())
    stem = "delta" if adapter is None else "adapter_model"
    files = layout(list(slots.values()), most, stem)
    chunks = {(job.name, part): runs for job in jobs for part, runs in job.parts.items()}
    writer = ShardWriter(folder.work, files)
    try:
        parts = {
            key: Part(slot.name, slot, [chunks[key][s] for s in sorted(chunks[key])], spool, writer)
            for key, slot in slots.items()
        }
        executor_for(options.workers()).run(parts.values())
        began = time.perf_counter()
        writer.sync()
    finally:
        writer.close()
    return files, parts, time.perf_counter() - began


def _add_tied(jobs: Sequence[EncodeJob], ties: Ties) -> None:
    """A tied head beside its embedding: PEFT copies the one without the other."""
    for job in jobs:
        if ties.get(job.name) is not None and job.how == "expert" and job.parts:
            job.parts[TIED] = job.parts[WHOLE]
            job.dtypes[TIED], job.shapes[TIED] = job.dtypes[WHOLE], job.shapes[WHOLE]


def _slots(jobs: Sequence[EncodeJob], adapter: Ties | None) -> dict[tuple[str, str], Slot]:
    """What is written of each part of each tensor."""
    adapted = {job.name for job in jobs if job.how == "coded"}
    slots: dict[tuple[str, str], Slot] = {}
    for job in jobs:
        for part, held in job.parts.items():
            shape = job.shapes[part]
            if job.chunked:
                shape = (sum(chunk.count for chunk in held.values()),)
            name = f"{part}/{job.name}"
            if adapter is not None:
                name = _peft_name(job, part, adapter.get(job.name), adapted)
            nbytes = SIZES[job.dtypes[part]] * math.prod(shape)
            slots[job.name, part] = Slot(name, job.dtypes[part], shape, nbytes)
    return slots


def _peft_name(job: EncodeJob, part: str, tied: str | None, adapted: set[str]) -> str:
    if part == TIED and tied is not None:
        return adapter_name(tied, part, adapted)
    factor = part if job.how == "coded" else ""
    embedding = job.place.role is Role.EMBEDDING
    return adapter_name(job.name, factor, adapted, embedding=embedding)


def stored(job: EncodeJob, part: str, written: Part) -> Stored:
    """How the manifest describes a part."""
    slot, counts = written.slot, [chunk.count for chunk in written.chunks]
    stride, ends = None, None
    if job.chunked:
        # The last run is shorter, so its part may be too; all others are alike in most codecs.
        if len(set(counts[:-1])) > 1 or (len(counts) > 1 and counts[-1] > counts[0]):
            ends = list(accumulate(counts))
        else:
            stride = counts[0]
    return Stored(
        name=slot.name, dtype=slot.dtype, shape=list(slot.shape), digest=written.digest,
        stride=stride, ends=ends,
    )  # fmt: skip
