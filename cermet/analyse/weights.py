"""What the weights of a checkpoint hold: sizes by role, and what is broken, dead or doubled."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from cermet.analyse.contents import Contents, RoleSummary, group_of
from cermet.analyse.moments import BYTES_EACH, Moments, moments_of, row_windows
from cermet.analyse.walk import Window, threads_within, walk
from cermet.anatomy import Anatomy
from cermet.checkpoints.reader import Checkpoint
from cermet.core.fingerprint import digest_hex
from cermet.core.types import Role

__all__ = ["RepeatedLayer", "TensorRecord", "repeats", "same_bytes", "summed", "tensor_records"]


@dataclass(frozen=True)
class TensorRecord:
    """One tensor: where it stands and, where weights were read, what it holds.

    Attributes
    ----------
    dtype: spelled as in safetensors. layer: index in its stack, None outside of any.
    norm, rms, mean, largest: of its finite elements, in float64. zeros: elements that are zero.
    nan, infinite: elements that are no number; first_bad: flat index of the first of them.
    constant: the one value of all elements, None where they differ or there is only one.
    dead_rows, dead_columns: of a matrix, those that hold nothing but zeros.
    digest: of the bytes as stored (see `cermet verify`).
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    role: str
    bias: bool
    stack: str
    layer: int | None
    expert: int | None
    bytes: int
    norm: float | None = None
    rms: float | None = None
    mean: float | None = None
    largest: float | None = None
    zeros: int | None = None
    nan: int | None = None
    infinite: int | None = None
    first_bad: int | None = None
    constant: float | None = None
    dead_rows: int | None = None
    dead_columns: int | None = None
    digest: str | None = None

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def broken(self) -> int:
        """Elements that are NaN or infinite."""
        return (self.nan or 0) + (self.infinite or 0)


@dataclass(frozen=True)
class RepeatedLayer:
    """A layer whose tensors all have the bytes of an earlier one of the same stack."""

    stack: str
    layer: int
    of: int


def tensor_records(
    checkpoint: Checkpoint,
    anatomy: Anatomy,
    *,
    read: bool,
    memory: int,
    threads: int | None,
    progress: Callable[[str, int], None] | None = None,
) -> tuple[TensorRecord, ...]:
    """A record of every tensor, in the order of the checkpoint.

    Parameters
    ----------
    read: whether the weights are read, in windows on all cores; else from headers alone.
    memory: bytes that the windows may take at most. progress: gets a name and new bytes.

    Raises BudgetError where the memory does not hold one window.
    """
    plain = {name: _plain(checkpoint, anatomy, name) for name in checkpoint.tensors}
    if not read:
        return tuple(plain.values())
    shapes = {name: info.shape for name, info in checkpoint.tensors.items()}
    cuts = {name: row_windows(shape) for name, shape in shapes.items()}
    widest = max((w.stop - w.start for cut in cuts.values() for w in cut), default=1)
    count = threads_within(threads, memory, widest * BYTES_EACH, "A window of its weights")

    def work(name: str, window: Window) -> Moments:
        block = checkpoint.block(name, window.start, window.stop)
        return moments_of(block, window.start, shapes[name])

    def seen(name: str, elements: int) -> None:
        if progress is not None:
            info = checkpoint.tensors[name]
            progress(name, info.nbytes * elements // info.numel)

    found = walk(cuts, work, count, seen)
    return tuple(_filled(r, found[n]) if n in found else r for n, r in plain.items())


def _plain(checkpoint: Checkpoint, anatomy: Anatomy, name: str) -> TensorRecord:
    info, place = checkpoint.tensors[name], anatomy.places[name]
    stack, role, bias = group_of(info, place)
    return TensorRecord(
        name, info.dtype, info.shape, role, bias, stack, place.layer, place.expert, info.nbytes
    )


def _filled(record: TensorRecord, seen: Moments) -> TensorRecord:
    finite = max(1, seen.count - seen.nan - seen.infinite)
    return replace(
        record,
        norm=seen.norm,
        rms=math.sqrt(seen.square / finite),
        mean=seen.total / finite,
        largest=seen.largest,
        zeros=seen.count - seen.nonzero,
        nan=seen.nan,
        infinite=seen.infinite,
        first_bad=seen.first_bad,
        constant=seen.constant,
        dead_rows=len(seen.dead_rows),
        dead_columns=seen.dead_columns,
        digest=digest_hex(seen.digest, record.bytes),
    )


def summed(contents: Contents, records: Sequence[TensorRecord]) -> tuple[RoleSummary, ...]:
    """The rows of the table of roles, with the sizes of their weights."""
    groups: dict[tuple[str, str, bool], list[TensorRecord]] = {}
    for record in records:
        groups.setdefault((record.stack, record.role, record.bias), []).append(record)
    return tuple(_sized(r, groups[r.stack, r.role, r.bias]) for r in contents.roles)


def _sized(role: RoleSummary, records: Sequence[TensorRecord]) -> RoleSummary:
    read = [r for r in records if r.norm is not None]
    if not read or role.role == Role.BUFFER:
        return role
    square = math.fsum((r.norm or 0.0) ** 2 for r in read)
    finite = max(1, sum(r.count - r.broken for r in read))
    return replace(
        role,
        norm=math.sqrt(square),
        rms=math.sqrt(square / finite),
        largest=max(r.largest or 0.0 for r in read),
    )


def same_bytes(records: Sequence[TensorRecord]) -> tuple[tuple[str, ...], ...]:
    """Names of tensors that hold the same bytes, in groups; those of one value are left out."""
    groups: dict[tuple[str, tuple[int, ...], str], list[str]] = {}
    for r in records:
        if r.digest is not None and r.constant is None and r.count > 1 and r.role != Role.BUFFER:
            groups.setdefault((r.dtype, r.shape, r.digest), []).append(r.name)
    return tuple(tuple(names) for names in groups.values() if len(names) > 1)


def repeats(records: Sequence[TensorRecord]) -> tuple[RepeatedLayer, ...]:
    """The layers that are copies of an earlier one, as stacking layers leaves them."""
    layers: dict[tuple[str, int], dict[str, str]] = {}
    for r in records:
        if r.layer is not None and r.digest is not None:
            inner = r.name.removeprefix(f"{r.stack}.{r.layer}.")
            layers.setdefault((r.stack, r.layer), {})[inner] = r.digest
    first: dict[tuple[str, tuple[tuple[str, str], ...]], int] = {}
    found = []
    for (stack, layer), digests in sorted(layers.items()):
        key = (stack, tuple(sorted(digests.items())))
        if key in first:
            found.append(RepeatedLayer(stack, layer, first[key]))
        else:
            first[key] = layer
    return tuple(found)
