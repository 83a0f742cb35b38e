"""Numbers in groups that share a scale: symmetric grids of few bits, zero among them."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int8

__all__ = ["from_groups", "to_groups"]


def to_groups(
    values: Float[torch.Tensor, "count"], bits: int, group: int
) -> tuple[Int8[torch.Tensor, "count"], torch.Tensor]:
    """Each group's values as whole numbers from -(2**(bits-1) - 1) on, and its scale, bfloat16.

    The last group may be shorter. A group of zeros has the scale 0.
    """
    count, most = len(values), 2 ** (bits - 1) - 1
    padded = values.new_zeros(-(-count // group) * group)
    padded[:count] = values
    grouped = padded.view(-1, group)
    scale = (grouped.abs().amax(dim=1) / most).bfloat16()
    divisor = scale.float().masked_fill(scale == 0, 1.0)
    codes = (grouped / divisor[:, None]).round_().clamp_(-most, most)
    return codes.to(torch.int8).view(-1)[:count], scale


def from_groups(
    codes: Int8[torch.Tensor, "count"], scale: torch.Tensor, group: int
) -> Float[torch.Tensor, "count"]:
    """What `to_groups` has made -> the values; ValueError where scales are missing."""
    count = len(codes)
    if len(scale) != -(-count // group):
        raise ValueError(f"{count:,} numbers need {-(-count // group):,} scales, not {len(scale)}")
    spread = scale.float().repeat_interleave(group)[:count]
    return spread.mul_(codes)
