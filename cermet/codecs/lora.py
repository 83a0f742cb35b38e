"""A LoRA adapter out of a full fine-tune, by singular values."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float

from cermet.codecs.triplets import FACTORS, triplets
from cermet.core.codec import codec, projections
from cermet.core.types import Place, Role


def _covers(*, place: Place, vocabulary: bool) -> bool:
    words = vocabulary and place.role in (Role.EMBEDDING, Role.HEAD)
    return projections(place) or (words and len(place.shape) == 2)


def _turned(place: Place) -> bool:
    """Whether the adapter's product is the transpose of the matrix: PEFT's way with embeddings."""
    return place.transposed or place.role is Role.EMBEDDING


def _decode(
    *, place: Place, A: torch.Tensor, B: torch.Tensor
) -> Float[torch.Tensor, "rows columns"]:
    product = B.float() @ A.float()
    return product.t() if _turned(place) else product


@codec(
    decode=_decode,
    source="mergekit (extract_lora)",
    grain="tensor",
    covers=_covers,
    adapter=True,
    extras=[FACTORS],
    workspace=8.0,
    limits={"rank": (1, None), "epsilon": (0.0, None)},
)
def lora(
    delta: Float[torch.Tensor, "rows columns"],
    *,
    place: Place,
    dtype: torch.dtype,
    factors: Mapping[str, torch.Tensor] | None,
    rank: int = 128,
    epsilon: float = 0.0,
    distribute: bool = True,
    vocabulary: bool = False,
) -> Mapping[str, torch.Tensor]:
    """A LoRA adapter of the best low rank of each matrix, which PEFT loads.

    Maths       δ = U Σ Vᵀ, cut to a rank;  B = U √Σ, A = √Σ Vᵀ;  δ̂ = B A, with α = r
                Cost for a matrix of M × k: a Gram matrix of Mk², its r leading eigenvectors, a
                product
    Keeps       rank · (rows + columns) numbers in the expert's dtype for each matrix of attention
                and MLP; all else whole, under modules_to_save
    Parameters  rank: the largest rank. epsilon: singular values up to it are left out. distribute:
                √Σ to both factors; without it A gets Σ. vocabulary: embeddings and head get
                factors too
    Error       √(Σ σⱼ² of those left out), the least that any adapter of this rank can have
    When        an expert to be served, or merged, as an adapter
    Example     >>> compress("lora", [[0.0, 0.0], [0.0, 0.0]], [[1.0, 1.0], [2.0, 2.0]], rank=1)
                [[1.0, 1.0], [2.0, 2.0]]
    Departures  A bias of an adapted matrix that has changed is kept whole, and not in lora_B.
                What is the same in base and expert is not in the adapter. A head that is tied to
                an embedding kept whole is in it a second time, as PEFT needs it; with vocabulary
                PEFT adapts the embedding alone.
    """
    u, s, v = triplets(delta.t() if _turned(place) else delta, rank, factors)
    kept = int((s > epsilon).sum())
    if kept == 0:
        return {}
    root = s[:kept].sqrt() if distribute else s[:kept]
    left = u[:, :kept] * root if distribute else u[:, :kept]
    return {
        "A": (v[:, :kept] * root).t().contiguous().to(dtype),
        "B": left.contiguous().to(dtype),
    }
