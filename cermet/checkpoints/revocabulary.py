"""A checkpoint read as if it had another vocabulary: its rows in another order, others beside them.

Nothing is copied beforehand: a block is gathered when it is asked for, by an index table.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cermet.checkpoints.dtypes import SIZES, TORCH
from cermet.checkpoints.header import TensorInfo
from cermet.checkpoints.reader import Checkpoint

__all__ = ["AVERAGE", "FILL", "ZERO", "RevocabularyCheckpoint", "Rows"]

ZERO = -1
"""Where a row comes from: nowhere, it is zero."""
AVERAGE = -2
"""Where a row comes from: the mean of the same row of every model that has it."""
FILL = -3
"""Where a row comes from: the mean of the tensor's rows that stand for tokens."""

_CHUNK = 1024  # rows that are added at once for a mean over a tensor


@dataclass(frozen=True)
class Rows:
    """Where each row of one tensor comes from.

    Attributes
    ----------
    stored: the name of the tensor in its own checkpoint: another one's, where that is tied.
    givers: the tensors that rows are taken from: checkpoints with the name that each has there.
    origin: [rows], the position in `givers`, or ZERO, AVERAGE or FILL.
    row: [rows], the row of that tensor; -1 where there is none.
    shared: [givers, rows], for AVERAGE: the row in each of the givers, -1 where it has none.
    tokens: [rows], whether the row stands for a token; such a row is never FILL.
    """

    stored: str
    givers: Sequence[tuple[Checkpoint, str]]
    origin: NDArray[np.int32]
    row: NDArray[np.int64]
    shared: NDArray[np.int64]
    tokens: NDArray[np.bool_]

    @property
    def count(self) -> int:
        """Number of rows."""
        return len(self.origin)


class RevocabularyCheckpoint:
    """A checkpoint some of whose tensors are given row by row.

    Parameters
    ----------
    base: the checkpoint as stored.
    rows: for each tensor that changes, where its rows come from. It may be a head that the base
        does not store because it is tied, where the embedding's rows come from elsewhere.
    files: what the order of the tokens was read from; they are recorded as the adapter's are.

    Attributes
    ----------
    path, config: the base's. tensors: the base's, with the new shapes; `begin` is -1 for
    those that change: no run of bytes in a file is their value, only `block` gives it.
    """

    def __init__(self, base: Checkpoint, rows: Mapping[str, Rows], files: Sequence[Path]) -> None:
        self.path = base.path
        self.config: Mapping[str, Any] = base.config
        self.adapter = (*base.adapter, *files)
        givers = [giver for r in rows.values() for giver, _ in r.givers]
        self.exact = base.exact and all(giver.exact for giver in givers)
        self._base = base
        self._rows = rows
        self._infos = {n: base.tensors[r.stored]._replace(name=n) for n, r in rows.items()}
        self._dtypes = {n: _dtype(self._infos[n], r) for n, r in rows.items()}
        self._means: dict[str, torch.Tensor] = {}
        self._lock = threading.Lock()
        changed = {n: _reshaped(self._infos[n], r.count) for n, r in rows.items()}
        self.tensors: Mapping[str, TensorInfo] = MappingProxyType({**base.tensors, **changed})

    @property
    def base(self) -> Checkpoint:
        """The checkpoint in its own vocabulary."""
        return self._base

    def block(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Elements [start, stop) of the row-major tensor, 1-D.

        A tensor of mixed origin comes in the widest dtype of those that give rows, and at least
        in float32 where rows are means.
        """
        if name not in self._rows:
            return self._base.block(name, start, stop)
        width = _width(self._infos[name])
        first, last = start // width, -(-stop // width)
        found = self._gather(name, np.arange(first, max(first, last)), width)
        return found.reshape(-1)[start - first * width : stop - first * width]

    def _gather(self, name: str, places: NDArray[np.int64], width: int) -> torch.Tensor:
        """Some rows, [places, width]; a view of the file where they follow each other there."""
        rows, dtype = self._rows[name], self._dtypes[name]
        origins, wanted = rows.origin[places], rows.row[places]
        if len(places) and origins[0] >= 0 and (origins == origins[0]).all():
            return _taken(rows.givers[origins[0]], wanted, width).to(dtype)
        found = torch.zeros((len(places), width), dtype=dtype)
        for origin in np.unique(origins):
            here = np.flatnonzero(origins == origin)
            if origin >= 0:
                values = _taken(rows.givers[origin], wanted[here], width)
            elif origin == AVERAGE:
                values = self._average(rows, places[here], width, dtype)
            elif origin == FILL:
                values = self._mean(name, width)
            else:
                continue
            found[torch.from_numpy(here)] = values.to(dtype)
        return found

    def _average(
        self, rows: Rows, wanted: NDArray[np.int64], width: int, dtype: torch.dtype
    ) -> torch.Tensor:
        """The mean of some rows over the models that have them."""
        total = torch.zeros((len(wanted), width), dtype=dtype)
        count = torch.zeros((len(wanted), 1), dtype=dtype)
        for giver, there in zip(rows.givers, rows.shared[:, wanted], strict=True):
            has = np.flatnonzero(there >= 0)
            if len(has):
                at = torch.from_numpy(has)
                total[at] += _taken(giver, there[has], width).to(dtype)
                count[at] += 1
        return total / count

    def _mean(self, name: str, width: int) -> torch.Tensor:
        """The mean of the rows that stand for tokens, [width]; made once, in a fixed order."""
        with self._lock:
            if name not in self._means:
                places = np.flatnonzero(self._rows[name].tokens)
                total = torch.zeros(width, dtype=torch.float64)
                for first in range(0, len(places), _CHUNK):
                    values = self._gather(name, places[first : first + _CHUNK], width)
                    total += _folded(values.to(torch.float64))
                self._means[name] = total / max(1, len(places))
            return self._means[name]


def _dtype(info: TensorInfo, rows: Rows) -> torch.dtype:
    """The dtype in which no row of a tensor loses anything."""
    dtype = TORCH[info.dtype]
    for position in np.unique(rows.origin[rows.origin >= 0]):
        giver, name = rows.givers[position]
        dtype = torch.promote_types(dtype, TORCH[giver.tensors[name].dtype])
    if (rows.origin <= AVERAGE).any():
        dtype = torch.promote_types(dtype, torch.float32)
    return dtype


def _width(info: TensorInfo) -> int:
    """Elements of a row; a vector, also as [1, tokens], has rows of one element."""
    rows = info.shape[-1] if info.shape[0] == 1 else info.shape[0]
    return max(1, info.numel // max(1, rows))


def _reshaped(info: TensorInfo, rows: int) -> TensorInfo:
    shape = (1, rows) if info.shape[0] == 1 else (rows, *info.shape[1:])
    width = _width(info)
    return info._replace(shape=shape, begin=-1, nbytes=rows * width * SIZES[info.dtype])


def _taken(giver: tuple[Checkpoint, str], rows: NDArray[np.int64], width: int) -> torch.Tensor:
    """Some rows of a stored tensor, [rows, width]."""
    checkpoint, name = giver
    if not len(rows):
        return torch.empty((0, width), dtype=TORCH[checkpoint.tensors[name].dtype])
    start, stop = int(rows[0]), int(rows[-1]) + 1
    if stop - start == len(rows) and (np.diff(rows) == 1).all():
        return checkpoint.block(name, start * width, stop * width).view(-1, width)
    info = checkpoint.tensors[name]
    if info.begin >= 0:  # mapped, so the whole costs nothing
        whole = checkpoint.block(name, 0, info.numel).view(-1, width)
        return whole.index_select(0, torch.from_numpy(rows))
    runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
    return torch.cat([_taken(giver, run, width) for run in runs])


def _folded(values: torch.Tensor) -> torch.Tensor:
    """The sum over rows, by adding halves: the same on every machine, unlike a library's sum."""
    while len(values) > 1:
        half = (len(values) + 1) // 2
        values = torch.cat(
            [values[: len(values) - half] + values[half:], values[len(values) - half : half]]
        )
    return values[0]
