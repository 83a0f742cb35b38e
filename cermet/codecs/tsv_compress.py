"""TSV-Compress: a part of the singular triplets of each matrix."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float

from cermet.core.codec import codec, matrices
from cermet.core.types import Place
from cermet.maths.lowrank import truncated


def _rank(place: Place, density: float) -> int:
    short = min(place.shape)
    return min(short, max(1, int(short * density))) if density > 0 else 0


def _size(*, place: Place, density: float, itemsize: int) -> int:
    return itemsize * _rank(place, density) * sum(place.shape)


def _decode(*, left: torch.Tensor, right: torch.Tensor) -> Float[torch.Tensor, "rows columns"]:
    return left.float() @ right.float()


@codec(
    decode=_decode,
    source="arXiv:2412.00081",
    grain="tensor",
    covers=lambda *, place: matrices(place),
    size=_size,
    workspace=8.0,
    limits={"density": (0.0, 1.0)},
)
def tsv_compress(
    delta: Float[torch.Tensor, "rows columns"],
    *,
    place: Place,
    dtype: torch.dtype,
    density: float = 0.125,
) -> Mapping[str, torch.Tensor]:
    """The leading singular triplets of each matrix, as two thin ones.

    Maths       δ = Σⱼ σⱼ uⱼ vⱼᵀ;  δ̂ = the first p of them, p = ⌊d · min(rows, columns)⌋
                Cost for a matrix of M × k: a Gram matrix of Mk², its p leading eigenvectors, a
                product
    Keeps       p · (rows + columns) numbers in the expert's dtype for each matrix outside of
                vocabularies; all else is the expert's own
    Parameters  density: share d of the rank that is kept; 1 / T gives T tasks in the bytes of one
                to two models
    Error       √(Σ σⱼ² of those left out), the least that any matrix of this rank can have
    When        deltas whose spectrum decays; as the start of merging by TSV-M
    Example     >>> compress("tsv_compress", [[0.0, 0.0], [0.0, 0.0]], [[1.0, 1.0], [2.0, 2.0]],
                ...          density=0.5)
                [[1.0, 1.0], [2.0, 2.0]]
    Departures  The singular values are in one of the two factors, so a triplet takes one number
                less. At least one is kept. Matrices of a vocabulary are the expert's own.
    """
    left, right = truncated(delta, _rank(place, density))
    return {"left": left.to(dtype).contiguous(), "right": right.to(dtype).contiguous()}
