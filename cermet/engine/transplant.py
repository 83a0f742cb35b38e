"""New rows for the tokens of another model: shared ones are moved, the others approximated."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cermet.checkpoints.dtypes import FLOATS
from cermet.checkpoints.reader import Checkpoint
from cermet.core.errors import MismatchError, NonFiniteError
from cermet.core.fingerprint import digest_bytes
from cermet.engine.done import Done
from cermet.engine.job import Piece
from cermet.engine.target import Target
from cermet.maths.pursuit import Atoms, Pursuit, batch_size, pursue

__all__ = [
    "Approximation",
    "Matrix",
    "Sparse",
    "TransplantJob",
    "Vocabulary",
    "moved_vector",
    "summary",
]

_WORST = 20  # tokens that the record lists
_ROWS = 1 << 13  # rows that are written at once at most


@dataclass(frozen=True)
class Vocabulary:
    """Where the rows of the output come from.

    origin: [rows], the row of the model that each row of the output is, -1 for all others.
    rows: of the donor's embedding. atoms: [n], the rows of the output that are the same token in
    model and donor; the others are made of these.
    """

    origin: NDArray[np.int64]
    rows: int
    atoms: NDArray[np.int64]

    @property
    def new(self) -> NDArray[np.int64]:
        """Rows of the output to approximate."""
        return np.flatnonzero(self.origin[: self.rows] < 0)

    @property
    def unknown(self) -> NDArray[np.int64]:
        """Rows that neither model nor donor has; they are zero."""
        return np.flatnonzero(self.origin[self.rows :] < 0) + self.rows


@dataclass(frozen=True)
class Matrix:
    """A tensor of a checkpoint with a row for each token."""

    checkpoint: Checkpoint
    name: str

    def rows(self) -> torch.Tensor:
        """As it is stored, [rows, width]; of a mapped file a view."""
        info = self.checkpoint.tensors[self.name]
        if info.dtype not in FLOATS or len(info.shape) != 2:
            raise MismatchError(
                f"Tensor '{self.name}' of '{self.checkpoint.path}' is {info.dtype} "
                f"{list(info.shape)}; an embedding or a head is a matrix of floating-point numbers."
            )
        return self.checkpoint.block(self.name, 0, info.numel).view(info.shape)

    def finite(self, rows: torch.Tensor, ids: NDArray[np.int64]) -> torch.Tensor:
        """Some of its rows, unless one of them holds NaN or infinity."""
        good = torch.isfinite(rows).all(dim=1)
        if not bool(good.all()):
            row = int(ids[int(torch.nonzero(~good)[0])])
            raise NonFiniteError(
                f"Row {row} of '{self.name}' of model '{self.checkpoint.path}' holds NaN or "
                "infinity. Check how the model was trained or converted."
            )
        return rows


@dataclass
class Sparse:
    """What was found for some rows of the output: atoms and coefficients, and what is left.

    rows: [n]; indices, coefficients: [n, k], positions in the dictionary; error: [n], as a share
    of the donor's row; baseline: [n], the same for the mean of the dictionary in place of a sum.
    """

    rows: list[torch.Tensor] = field(default_factory=list)
    indices: list[torch.Tensor] = field(default_factory=list)
    coefficients: list[torch.Tensor] = field(default_factory=list)
    error: list[torch.Tensor] = field(default_factory=list)
    baseline: list[torch.Tensor] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, rows: torch.Tensor, found: Pursuit, baseline: torch.Tensor) -> None:
        """Add what was found for some rows."""
        with self._lock:
            self.rows.append(rows)
            self.indices.append(found.indices)
            self.coefficients.append(found.coefficients)
            self.error.append(found.error)
            self.baseline.append(baseline)


@dataclass(frozen=True)
class Approximation:
    """How far the new rows of a matrix are off, as shares of the donor's rows.

    0 is exact, 1 as far off as a row of zeros. mean, worst: over the new rows, 0 without any.
    baseline: the mean, had each row been the mean of the shared ones.
    by_token: each new token's error, the worst first; a row without a token by its number.
    """

    tensor: str
    mean: float
    worst: float
    baseline: float
    by_token: Mapping[str, float]

    def record(self) -> dict[str, Any]:
        """What the record says of it: the worst tokens only."""
        few = dict(islice(self.by_token.items(), _WORST))
        found = {"mean": self.mean, "worst": self.worst, "baseline": self.baseline}
        return {**found, "worst_tokens": few}


def summary(tensor: str, sparse: Sparse, tokens: Sequence[str | None]) -> Approximation:
    """How far the new rows of a matrix are off; tokens: of the donor, by id."""
    if not sparse.rows:
        return Approximation(tensor, 0.0, 0.0, 0.0, {})
    rows, error = torch.cat(sparse.rows), torch.cat(sparse.error)
    found = sorted(zip(error.tolist(), rows.tolist(), strict=True), key=lambda e: (-e[0], e[1]))
    names = [tokens[row] if row < len(tokens) else None for _, row in found]
    by_token = {
        (f"[row {row}]" if name is None else name): value
        for (value, row), name in zip(found, names, strict=True)
    }
    mean = sum(sorted(error.tolist())) / len(found)  # sorted: pieces end in any order
    baseline = sum(sorted(torch.cat(sparse.baseline).tolist())) / len(found)
    return Approximation(tensor, mean, found[0][0], baseline, by_token)


class TransplantJob:
    """One matrix with a row for each token, in the vocabulary of the donor.

    Shared rows keep their bytes. The others are the sum of those rows of the model whose
    counterparts in the donor make up the donor's row: in `sparse`, with what is left of that row.
    """

    together = False

    def __init__(
        self,
        name: str,
        vocabulary: Vocabulary,
        model: Matrix,
        donor: Matrix,
        k: int,
        target: Target,
        finished: Callable[[Done], None] | None = None,
    ) -> None:
        self.name, self.vocabulary, self.k = name, vocabulary, k
        self.model, self.donor, self.target = model, donor, target
        self.finished = finished
        self.sparse = Sparse()
        self.own, self.theirs = model.rows(), donor.rows()
        self.width = self.own.shape[1]
        self.atoms: Atoms | None = None

    @property
    def numel(self) -> int:
        """Elements of the output."""
        return len(self.vocabulary.origin) * self.width

    def _donor_rows(self, ids: NDArray[np.int64]) -> torch.Tensor:
        rows = self.theirs.index_select(0, torch.from_numpy(ids))
        return self.donor.finite(rows, ids)

    def stages(self) -> Iterator[list[Piece]]:
        """One stage of independent pieces; the dictionary is in memory while it runs."""
        if len(self.vocabulary.new):
            self.atoms = Atoms(self._donor_rows(self.vocabulary.atoms))
            self.mean = self.atoms.vectors.mean(dim=0, dtype=torch.float64)
        yield [self._piece(start, stop) for start, stop in self._cuts()]
        self.atoms = None

    def _cuts(self) -> list[tuple[int, int]]:
        """Runs of rows with as many new ones as are pursued at once; the same in every run."""
        batch = batch_size(self.k, self.theirs.shape[1])
        ends = {len(self.vocabulary.origin), *self.vocabulary.new[batch::batch].tolist()}
        ends |= set(range(_ROWS, len(self.vocabulary.origin), _ROWS))
        points = [0, *sorted(ends)]
        return [(a, b) for a, b in pairwise(points) if a < b]

    def _piece(self, start: int, stop: int) -> Piece:
        return lambda: self._write(start, stop)

    def _write(self, start: int, stop: int) -> None:
        origin = self.vocabulary.origin[start:stop]
        rows = torch.zeros(stop - start, self.width, dtype=self.target.dtype)
        kept = np.flatnonzero(origin >= 0)
        taken = self.own.index_select(0, torch.from_numpy(origin[kept]))
        rows[torch.from_numpy(kept)] = self.model.finite(taken, origin[kept]).to(rows.dtype)
        new = np.flatnonzero(origin[: max(0, self.vocabulary.rows - start)] < 0)
        if len(new):
            rows[torch.from_numpy(new)] = self._approximated(start + new).to(rows.dtype)
        flat = rows.view(-1)
        self.target.put(start * self.width, flat)
        if self.finished is not None:
            begin, end = start * self.width, stop * self.width
            raw = flat.view(torch.uint8).numpy()
            self.finished(Done(begin, end, digest_bytes(raw, begin * flat.element_size()), []))

    def _approximated(self, ids: NDArray[np.int64]) -> torch.Tensor:
        """Rows of the model for tokens of the donor alone, float64 [ids, width]."""
        assert self.atoms is not None
        wanted = self._donor_rows(ids).to(torch.float64)
        found = pursue(wanted, self.atoms, self.k)
        own = torch.from_numpy(self.vocabulary.origin[self.vocabulary.atoms])
        total = torch.zeros(len(ids), self.width, dtype=torch.float64)
        for indices, share in zip(found.indices.T, found.coefficients.T, strict=True):
            total += share.unsqueeze(1) * self.own.index_select(0, own[indices])
        lengths = torch.linalg.vector_norm(wanted, dim=1)
        away = torch.linalg.vector_norm(wanted - self.mean, dim=1)
        baseline = torch.where(lengths > 0, away / lengths, torch.zeros((), dtype=torch.float64))
        self.sparse.add(torch.from_numpy(ids), found, baseline)
        return total


def moved_vector(
    values: torch.Tensor, vocabulary: Vocabulary, sparse: Sparse, dtype: torch.dtype
) -> torch.Tensor:
    """A number for each token, such as a head's bias, by what was found for its matrix.

    values: [rows of the model]. The numbers of new tokens are the same sums as their rows.
    """
    origin = torch.from_numpy(vocabulary.origin)
    found = torch.zeros(len(origin), dtype=torch.float64)
    kept = origin >= 0
    found[kept] = values[origin[kept]].to(torch.float64)
    shared = values[origin[torch.from_numpy(vocabulary.atoms)]].to(torch.float64)
    for rows, indices, shares in zip(sparse.rows, sparse.indices, sparse.coefficients, strict=True):
        found[rows] = (shares * shared[indices]).sum(1)
    return found.to(dtype)
