"""What one tensor holds: its size, its range, what of it is zero or no number, its digest."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from cermet.analyse.walk import Window
from cermet.core.fingerprint import digest_bytes

__all__ = ["Moments", "matrix_of", "moments_of", "row_windows"]

_WINDOW = 1 << 20  # elements
_WIDEST = 1 << 22  # elements of a row up to which rows and columns are looked at

BYTES_EACH = 32.0
"""Bytes of memory for each element that is looked at, roughly: two copies in float64, masks."""


@dataclass(frozen=True)
class Moments:
    """What has been seen of a tensor.

    Attributes
    ----------
    count: elements. nan, infinite: how many are none of a number. first_bad: flat index of the
        first of them. nonzero: elements other than zero, NaN among them.
    total, square: sum of the finite elements and of their squares, in float64.
    least, most: of the finite elements; infinite where there are none.
    digest: partial digest of the bytes as stored.
    dead_rows: rows without anything but zeros; live_columns: a mask of the columns with anything
        else, None where all have; both of the tensor as a matrix (see `matrix_of`).
    """

    count: int
    nan: int
    infinite: int
    first_bad: int | None
    nonzero: int
    total: float
    square: float
    least: float
    most: float
    digest: int
    dead_rows: tuple[int, ...] = ()
    live_columns: torch.Tensor | None = None

    def __add__(self, other: Moments) -> Moments:
        """Of two parts of a tensor, this one before the other."""
        live = None
        if self.live_columns is not None and other.live_columns is not None:
            live = self.live_columns | other.live_columns
        first = self.first_bad if self.first_bad is not None else other.first_bad
        return Moments(
            count=self.count + other.count,
            nan=self.nan + other.nan,
            infinite=self.infinite + other.infinite,
            first_bad=first,
            nonzero=self.nonzero + other.nonzero,
            total=self.total + other.total,
            square=self.square + other.square,
            least=min(self.least, other.least),
            most=max(self.most, other.most),
            digest=self.digest + other.digest,
            dead_rows=self.dead_rows + other.dead_rows,
            live_columns=live,
        )

    @property
    def norm(self) -> float:
        """Frobenius norm of what is finite."""
        return math.sqrt(self.square)

    @property
    def largest(self) -> float:
        """The largest size of a finite element; 0 where there is none."""
        return max(abs(self.least), abs(self.most)) if self.least <= self.most else 0.0

    @property
    def constant(self) -> float | None:
        """The one value of all elements, of which there are several; None where they differ."""
        same = self.count > 1 and self.least == self.most and not self.nan + self.infinite
        return self.least if same else None

    @property
    def dead_columns(self) -> int:
        """How many columns hold nothing but zeros."""
        return 0 if self.live_columns is None else int((~self.live_columns).sum())


def matrix_of(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """A tensor as rows and columns; None for vectors and for rows that are too long to hold.

    Fused experts [experts, out, in] are one matrix below another; of a convolution [out, in, ...]
    a row is what makes one output.
    """
    if len(shape) < 2 or not math.prod(shape):
        return None
    rows = math.prod(shape[:-1]) if len(shape) == 3 and shape[2] > 16 else shape[0]
    cols = math.prod(shape) // rows
    return (rows, cols) if cols <= _WIDEST else None


def row_windows(shape: tuple[int, ...]) -> list[Window]:
    """The windows of a tensor, in which no row is cut."""
    matrix, numel = matrix_of(shape), math.prod(shape)
    size = _WINDOW if matrix is None else max(1, _WINDOW // matrix[1]) * matrix[1]
    return [Window(start, min(start + size, numel)) for start in range(0, numel, size)]


def moments_of(block: torch.Tensor, start: int, shape: tuple[int, ...]) -> Moments:
    """What a block holds: [elements] as stored, whole rows from flat index `start` on."""
    digest = digest_bytes(
        block.contiguous().view(torch.uint8).numpy(), start * block.element_size()
    )
    values = block.to(torch.float64)
    least, most = (v.item() for v in values.aminmax())
    nan = infinite = 0
    first = None
    nonzero = int(torch.count_nonzero(values))
    rows, live = _dead(values, start, shape, nonzero)
    if not (math.isfinite(least) and math.isfinite(most)):
        finite = torch.isfinite(values)
        nan = int(torch.isnan(values).sum())
        infinite = int((~finite).sum()) - nan
        first = start + int((~finite).nonzero()[0])
        kept = values[finite]
        least, most = (v.item() for v in kept.aminmax()) if len(kept) else (math.inf, -math.inf)
        values = values.nan_to_num(0.0, 0.0, 0.0)
    return Moments(
        count=len(block),
        nan=nan,
        infinite=infinite,
        first_bad=first,
        nonzero=nonzero,
        total=float(values.sum()),
        square=float(values.dot(values)),
        least=least,
        most=most,
        digest=digest,
        dead_rows=rows,
        live_columns=live,
    )


def _dead(
    values: torch.Tensor, start: int, shape: tuple[int, ...], nonzero: int
) -> tuple[tuple[int, ...], torch.Tensor | None]:
    """The dead rows of a block, and the mask of its live columns, None where all live."""
    matrix = matrix_of(shape)
    if matrix is None or nonzero == len(values):
        return (), None
    alive = values.view(-1, matrix[1]).ne(0)
    rows = (~alive.any(1)).nonzero().view(-1) + start // matrix[1]
    columns = alive.any(0)
    return tuple(rows.tolist()), None if bool(columns.all()) else columns
