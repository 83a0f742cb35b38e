"""GraftLLM's SkillPack: Delta-CoMe with widths of their own for attention and MLP."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float

from cermet.codecs.bands import (
    GRAM,
    Bands,
    Rounding,
    banded_size,
    decode_bands,
    encode_bands,
    fitted_bands,
)
from cermet.codecs.triplets import FACTORS, oriented, sides, triplets
from cermet.core.codec import codec
from cermet.core.types import Place, Role

_ATTENTION = frozenset({Role.Q, Role.K, Role.V, Role.O, Role.QKV, Role.KV})


def _bands(
    *, place: Place, attention_8: int, attention_4: int, attention_2: int, mlp_8: int, mlp_4: int,
    mlp_2: int,
) -> Bands:  # fmt: skip
    counts = {8: mlp_8, 4: mlp_4, 2: mlp_2}
    if place.role in _ATTENTION:
        counts = {8: attention_8, 4: attention_4, 2: attention_2}
    return fitted_bands(counts, min(place.shape), None)


def _size(
    *, place: Place, group: int, exact: bool, attention_8: int, attention_4: int,
    attention_2: int, mlp_8: int, mlp_4: int, mlp_2: int,
) -> int:  # fmt: skip
    bands = _bands(
        place=place, attention_8=attention_8, attention_4=attention_4, attention_2=attention_2,
        mlp_8=mlp_8, mlp_4=mlp_4, mlp_2=mlp_2,
    )  # fmt: skip
    return banded_size(sides(place), bands, group, exact=exact)


def _decode(
    *,
    place: Place,
    sigma: torch.Tensor,
    codes: torch.Tensor | None,
    zeros: torch.Tensor | None,
    scales: torch.Tensor | None,
    order: torch.Tensor | None,
    group: int,
    attention_8: int,
    attention_4: int,
    attention_2: int,
    mlp_8: int,
    mlp_4: int,
    mlp_2: int,
) -> Float[torch.Tensor, "rows columns"]:
    parts = {"sigma": sigma, "codes": codes, "zeros": zeros, "scales": scales, "order": order}
    bands = _bands(
        place=place, attention_8=attention_8, attention_4=attention_4, attention_2=attention_2,
        mlp_8=mlp_8, mlp_4=mlp_4, mlp_2=mlp_2,
    )  # fmt: skip
    return oriented(decode_bands(parts, sides(place), bands, group), place)


@codec(
    decode=_decode,
    source="arXiv:2505.18502",
    grain="tensor",
    extras=[GRAM, FACTORS],
    size=_size,
    workspace=12.0,
    limits={
        "group": (0, None), "damping": (0.0, None),
        **{f"{kind}_{b}": (0, None) for kind in ("attention", "mlp") for b in (8, 4, 2)},
    },
)  # fmt: skip
def graftllm(
    delta: Float[torch.Tensor, "rows columns"],
    *,
    place: Place,
    gram: Mapping[str, torch.Tensor] | None,
    factors: Mapping[str, torch.Tensor] | None,
    attention_8: int = 20,
    attention_4: int = 180,
    attention_2: int = 800,
    mlp_8: int = 20,
    mlp_4: int = 180,
    mlp_2: int = 1200,
    group: int = 128,
    act_order: bool = True,
    damping: float = 0.01,
    exact: bool = False,
) -> Mapping[str, torch.Tensor]:
    """A SkillPack: singular vectors in 8, 4 and 2 bits, more of them for the MLP.

    Maths       as delta_come, with the bands 8, 4 and 2
                Cost as that of delta_come
    Keeps       as delta_come
    Parameters  attention_8 to mlp_2: columns of so many bits for the matrices of attention and
                of the MLP, as far as their ranks go. group, act_order, damping, exact: as of
                delta_come
    Error       the tail of the spectrum, and the rounding
    When        grafting the skills of several sources, each pack put on or left off by itself
    Example     >>> compress("graftllm", [[0.0, 0.0]], [[3.0, 3.0]])
                [[3.0, 3.0]]
    Departures  The authors' released code is Delta-CoMe's with these widths; the pruning of
                vocabularies and the router of their paper are in none of it, nor here.
    """
    bands = _bands(
        place=place, attention_8=attention_8, attention_4=attention_4, attention_2=attention_2,
        mlp_8=mlp_8, mlp_4=mlp_4, mlp_2=mlp_2,
    )  # fmt: skip
    rank = sum(count for _, count in bands)
    return encode_bands(
        triplets(oriented(delta, place), rank, factors), bands,
        Rounding(group, exact, damping, act_order), None if gram is None else gram[""],
    )  # fmt: skip
