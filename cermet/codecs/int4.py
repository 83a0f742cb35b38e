"""Deltas rounded to 4 bits."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float

from cermet.codecs.grouped import bytes_of, grouped
from cermet.maths.groups import from_groups, to_groups
from cermet.maths.packing import pack, unpack

_MIDDLE = 8  # what is added so that no code is negative


def _decode(
    *, count: int, codes: torch.Tensor, scales: torch.Tensor, group: int
) -> Float[torch.Tensor, "count"]:
    numbers = unpack(codes, 4, count).to(torch.int8).sub_(_MIDDLE)
    return from_groups(numbers, scales, group)


@grouped(decode=_decode, size=bytes_of(4))
def int4(delta: Float[torch.Tensor, "count"], *, group: int = 64) -> Mapping[str, torch.Tensor]:
    """Every weight's change in 4 bits, with a scale for each group of weights.

    Maths       s = max |δ| / 7 in each group, in bfloat16;  δ̂ = s · round(δ / s)
    Keeps       4 bits a weight of everything but vectors, and 16 bits for each group;
                vectors are the expert's own
    Parameters  group: weights that share a scale, a power of two
    Error       at most half of s for each weight
    When        a quarter of the bytes of a bfloat16 model, without a calibration
    Example     >>> compress("int4", [[0.0, 0.0, 0.0]], [[7.0, -1.2, 3.4]])
                [[7.0, -1.0, 3.0]]
    Departures  none
    """
    codes, scales = to_groups(delta, 4, group)
    return {"codes": pack((codes + _MIDDLE).to(torch.uint8), 4), "scales": scales}
