"""Deltas rounded to 4 bits."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from cermet.core.codec import codec
from cermet.core.types import Place
from cermet.maths.groups import from_groups, to_groups
from cermet.maths.packing import pack, packed_size, unpack

_MIDDLE = 8  # what is added so that no code is negative


def _covers(*, place: Place) -> bool:
    return len(place.shape) > 1


def _bytes(*, place: Place, group: int) -> int:
    numel = torch.Size(place.shape).numel()
    return packed_size(numel, 4) + 2 * -(-numel // group)


def _power(*, group: int) -> str | None:
    return None if group & (group - 1) == 0 else f"group must be a power of two, not {group}"


def _decode(*, count: int, codes: Tensor, scales: Tensor, group: int) -> Float[Tensor, "count"]:
    numbers = unpack(codes, 4, count).to(torch.int8).sub_(_MIDDLE)
    return from_groups(numbers, scales, group)


@codec(
    decode=_decode,
    source="round to nearest",
    covers=_covers,
    size=_bytes,
    check=_power,
    limits={"group": (8, 65536)},
)
def int4(delta: Float[Tensor, "count"], *, group: int = 64) -> Mapping[str, Tensor]:
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
