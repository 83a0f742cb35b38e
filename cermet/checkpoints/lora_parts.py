"""What a LoRA adapter does to one tensor: the values that planning hands to applying."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

__all__ = ["Edit", "LowRank"]


@dataclass(frozen=True, slots=True)
class LowRank:
    """scale * (left @ right), as `count` matrices of `rows` x `cols`.

    Attributes
    ----------
    a, b: the factors as PEFT saved them.
    form: how they make the delta of the stored tensor: `plain` is B @ A, `flipped` its transpose;
        `experts` and `experts_flipped` the same for every expert of a fused parameter.
    scale: alpha / r or alpha / sqrt(r).
    count, rows, cols: the stored tensor, seen as matrices.
    magnitude: DoRA's length per output, or None. Outputs are the rows of a plain form and the
        columns of a flipped one.
    """

    a: torch.Tensor
    b: torch.Tensor
    form: Literal["plain", "flipped", "experts", "experts_flipped"]
    scale: float
    count: int
    rows: int
    cols: int
    magnitude: torch.Tensor | None = None

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Left [count, rows, r] and right [count, r, cols], contiguous float32."""
        # PEFT lays A out expert by expert, and B rank by rank
        a = self.a.reshape(self.count, -1, self.a[0].numel())
        if self.form in ("plain", "flipped"):
            b = self.b.reshape(1, self.b.shape[0], -1)
        else:
            b = self.b.reshape(self.b.shape[0], -1, self.count).permute(2, 0, 1)
        if self.form in ("flipped", "experts_flipped"):
            a, b = b.transpose(1, 2), a.transpose(1, 2)
        # fresh memory: a mapped file may lie at any address, and BLAS rounds by alignment
        return torch.empty(b.shape).copy_(b), torch.empty(a.shape).copy_(a)


@dataclass(slots=True)
class Edit:
    """What an adapter does to one tensor of the base, in the order of the attributes.

    Attributes
    ----------
    shape: of the base's tensor.
    replaced: a tensor that takes the place of the base's.
    low_rank: a delta to add.
    shift, shift_scale: a vector to add, times the scale (the bias of B).
    rows, row_values: vocabulary rows that are overwritten, ascending, and their values.
    """

    shape: tuple[int, ...]
    replaced: torch.Tensor | None = None
    low_rank: LowRank | None = None
    shift: torch.Tensor | None = None
    shift_scale: float = 1.0
    rows: tuple[int, ...] = ()
    row_values: torch.Tensor | None = None
