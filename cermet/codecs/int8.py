"""Deltas rounded to 8 bits."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float

from cermet.codecs.grouped import bytes_of, grouped
from cermet.maths.groups import from_groups, to_groups


def _decode(
    *, codes: torch.Tensor, scales: torch.Tensor, group: int
) -> Float[torch.Tensor, "count"]:
    return from_groups(codes, scales, group)


@grouped(decode=_decode, size=bytes_of(8))
def int8(delta: Float[torch.Tensor, "count"], *, group: int = 128) -> Mapping[str, torch.Tensor]:
    """Every weight's change in 8 bits, with a scale for each group of weights.

    Maths       s = max |δ| / 127 in each group, in bfloat16;  δ̂ = s · round(δ / s)
    Keeps       8 bits a weight of everything but vectors, and 16 bits for each group;
                vectors are the expert's own
    Parameters  group: weights that share a scale, a power of two
    Error       at most half of s for each weight
    When        a delta that has to be nearly exact, at half the bytes of a bfloat16 model
    Example     >>> compress("int8", [[0.0, 0.0]], [[127.0, -1.2]])
                [[127.0, -1.0]]
    Departures  none
    """
    codes, scales = to_groups(delta, 8, group)
    return {"codes": codes, "scales": scales}
