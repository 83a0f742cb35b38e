"""Rounding a matrix to a grid of few bits: to the nearest, or by GPTQ where inputs are known.

Each row is cut into groups of columns, and each group has a grid of its own that reaches from its
smallest to its largest value and holds zero: value = scale * (code - zero), with whole numbers
code and zero below 2**bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64, UInt8

__all__ = ["Grid", "gptq", "nearest", "values_of"]

_BLOCK = 128  # columns whose errors are carried on one by one; beyond, all at once


@dataclass(frozen=True, slots=True)
class Grid:
    """A matrix on its grid.

    codes, zeros: whole numbers below 2**bits. scales: in the dtype in which they are kept.
    order: the columns in the order in which they were grouped; None for their own.
    """

    codes: UInt8[torch.Tensor, "rows columns"]
    scales: torch.Tensor
    zeros: UInt8[torch.Tensor, "rows groups"]
    order: Int64[torch.Tensor, "columns"] | None = None


def values_of(grid: Grid, group: int) -> Float[torch.Tensor, "rows columns"]:
    """The matrix that a grid stands for, float32."""
    columns = grid.codes.shape[1]
    size = group or max(1, columns)
    scale = grid.scales.float().repeat_interleave(size, dim=1)[:, :columns]
    zero = grid.zeros.float().repeat_interleave(size, dim=1)[:, :columns]
    found = grid.codes.float().sub_(zero).mul_(scale)
    if grid.order is None:
        return found
    return torch.empty_like(found).index_copy_(1, grid.order, found)


def nearest(
    matrix: Float[torch.Tensor, "rows columns"], bits: int, group: int, dtype: torch.dtype
) -> Grid:
    """Every value to the nearest of its grid, halves to even.

    group: columns of a group; 0 for whole rows. dtype: of the scales that are kept.
    """
    rows, columns = matrix.shape
    size = group or max(1, columns)
    count = -(-columns // size)
    padded = matrix.new_zeros(rows, count * size)  # zero is on every grid, so it moves none
    padded[:, :columns] = matrix
    grouped = padded.view(rows, count, size)
    scale, zero = _grid(grouped, bits, dtype)
    codes = _codes(grouped, scale[..., None], zero[..., None], bits)
    codes = codes.view(rows, -1)[:, :columns].contiguous()
    return Grid(codes.to(torch.uint8), scale.to(dtype), zero.to(torch.uint8))


def gptq(
    matrix: Float[torch.Tensor, "rows columns"],
    gram: Float[torch.Tensor, "columns columns"],
    bits: int,
    group: int,
    dtype: torch.dtype,
    *,
    damping: float,
    ordered: bool,
) -> Grid:
    """Column by column, what rounding one changes is made good in those that follow.

    gram: the inputs' inner products, times any positive factor. damping: share of its mean
    diagonal that is added to the diagonal. ordered: columns of strong inputs first.
    Follows Frantar et al., arXiv:2210.17323, as GraftLLM's copy has it.
    """
    work, whole = matrix.clone(), _grid(matrix[:, None], bits, dtype)
    inverse, order = _prepared(work, gram.double(), damping, ordered)
    if order is not None:
        work = work[:, order]
    columns = work.shape[1]
    codes = torch.empty_like(work)
    scales, zeros = [], []
    scale, zero = (side[:, 0] for side in whole)
    if not group:
        scales, zeros = [scale], [zero]
    for start in range(0, columns, _BLOCK):
        stop = min(start + _BLOCK, columns)
        block, errors = work[:, start:stop].clone(), work.new_empty(len(work), stop - start)
        factor = inverse[start:stop, start:stop]
        for i in range(stop - start):
            if group and (start + i) % group == 0:
                own = work[:, start + i : start + i + group]
                scale, zero = (side[:, 0] for side in _grid(own[:, None], bits, dtype))
                scales.append(scale)
                zeros.append(zero)
            column = block[:, i]
            codes[:, start + i] = _codes(column, scale, zero, bits)
            kept = (codes[:, start + i] - zero) * scale
            errors[:, i] = (column - kept) / factor[i, i]
            block[:, i:] -= errors[:, i, None] * factor[i, i:]
        work[:, stop:] -= errors @ inverse[start:stop, stop:]
    return Grid(
        codes.to(torch.uint8), torch.stack(scales, 1).to(dtype),
        torch.stack(zeros, 1).to(torch.uint8), order,
    )  # fmt: skip


def _grid(
    grouped: torch.Tensor, bits: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero of groups [..., size]: float32, the scale as it is after being kept."""
    low = grouped.amin(dim=-1).clamp(max=0)
    high = grouped.amax(dim=-1).clamp(min=0)
    empty = (low == 0) & (high == 0)
    low, high = low.masked_fill(empty, -1.0), high.masked_fill(empty, 1.0)
    scale = ((high - low) / (2**bits - 1)).to(dtype).float()
    scale.clamp_(min=torch.finfo(torch.float32).tiny)
    return scale, (-low / scale).round_().clamp_(0, 2**bits - 1)


def _codes(
    values: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, bits: int
) -> torch.Tensor:
    return (values / scale).round_().add_(zero).clamp_(0, 2**bits - 1)


def _prepared(
    work: torch.Tensor, gram: torch.Tensor, damping: float, ordered: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The upper factor of the inverse of the damped Gram matrix, and the order of the columns.

    Columns without any input are set to zero in `work`.
    """
    gram = gram.clone()
    diagonal = gram.diagonal()
    dead = diagonal == 0
    diagonal[dead] = 1.0
    work[:, dead] = 0.0
    order = torch.argsort(diagonal, descending=True, stable=True) if ordered else None
    if order is not None:
        gram = gram[order][:, order]
    diagonal = gram.diagonal()
    diagonal += damping * diagonal.mean()
    lower, failed = torch.linalg.cholesky_ex(gram)
    if int(failed):
        raise ValueError("its Gram matrix is not positive definite; raise the damping")
    inverse = torch.cholesky_inverse(lower)
    return torch.linalg.cholesky(inverse, upper=True).float(), order
