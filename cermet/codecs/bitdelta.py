"""BitDelta: one bit a weight."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float

from cermet.core.codec import codec
from cermet.core.registry import Sum
from cermet.core.types import Place
from cermet.maths.packing import pack, packed_size, unpack


def _sizes(deltas: Float[torch.Tensor, "1 *block"]) -> Float[torch.Tensor, "1 *block"]:
    return deltas.abs()


def _scale(*, total: torch.Tensor, place: Place) -> dict[str, float]:
    return {"scale": float((total[0] / max(1, _numel(place))).float())}


def _numel(place: Place) -> int:
    return torch.Size(place.shape).numel()


def _bytes(*, place: Place) -> int:
    return packed_size(_numel(place), 1)


def _decode(*, count: int, signs: torch.Tensor, scale: float) -> Float[torch.Tensor, "count"]:
    return unpack(signs, 1, count).float().mul_(2 * scale).sub_(scale)


@codec(
    decode=_decode,
    source="arXiv:2402.10193",
    rounds=[Sum("total", of=_sizes)],
    fit=_scale,
    fitted=["scale"],
    size=_bytes,
    workspace=4.0,
)
def bitdelta(delta: Float[torch.Tensor, "count"]) -> Mapping[str, torch.Tensor]:
    """The sign of every weight's change, and one size of change for each matrix.

    Maths       bit = 1 where δ ≥ 0, else 0;  α = mean |δ|;  δ̂ = α · (2 · bit − 1)
    Keeps       a bit a weight of attention and MLP matrices, α; all else is the expert's own
    Parameters  none
    Error       √(1 − mean|δ|² / mean δ²): 0.603 for normal deltas. α is the best for these signs
    When        serving many experts of one base; instruction tuning survives it better than maths
    Example     >>> compress("bitdelta", [[0.0, 0.0], [0.0, 0.0]], [[3.0, -1.0], [0.0, 4.0]])
                [[2.0, -2.0], [2.0, 2.0]]
    Departures  The scales are not distilled afterwards (that takes data and a GPU). The authors'
                release trains and stores every other parameter too; here they are the expert's.
                Bits lie along the rows, and rows of any length will do.
    """
    return {"signs": pack((delta >= 0).to(torch.uint8), 1)}
