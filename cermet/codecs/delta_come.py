"""Delta-CoMe: singular vectors in mixed precision."""

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
from cermet.core.types import Place

_BITS = 1.0


def _bands(
    *, place: Place, bits: float | None, at_16: int, at_8: int, at_4: int, at_3: int,
    at_2: int | None,
) -> Bands:  # fmt: skip
    out, into = sides(place)
    counts = {16: at_16, 8: at_8, 4: at_4, 3: at_3, 2: at_2 or 0}
    wanted = None if at_2 is not None else (bits or _BITS) * out * into / (out + into)
    return fitted_bands(counts, min(out, into), wanted)


def _size(
    *, place: Place, group: int, exact: bool, bits: float | None, at_16: int, at_8: int, at_4: int,
    at_3: int, at_2: int | None,
) -> int:  # fmt: skip
    bands = _bands(place=place, bits=bits, at_16=at_16, at_8=at_8, at_4=at_4, at_3=at_3, at_2=at_2)
    return banded_size(sides(place), bands, group, exact=exact)


def _one(*, bits: float | None, at_2: int | None) -> str | None:
    if bits is not None and at_2 is not None:
        return "bits says how many columns of 2 bits there are, so at_2 cannot be given too"
    return None


def _decode(
    *,
    place: Place,
    sigma: torch.Tensor,
    codes: torch.Tensor | None,
    zeros: torch.Tensor | None,
    scales: torch.Tensor | None,
    whole: torch.Tensor | None,
    order: torch.Tensor | None,
    group: int,
    bits: float | None,
    at_16: int,
    at_8: int,
    at_4: int,
    at_3: int,
    at_2: int | None,
) -> Float[torch.Tensor, "rows columns"]:
    parts = {"sigma": sigma, "codes": codes, "zeros": zeros, "scales": scales, "whole": whole,
             "order": order}  # fmt: skip
    bands = _bands(place=place, bits=bits, at_16=at_16, at_8=at_8, at_4=at_4, at_3=at_3, at_2=at_2)
    return oriented(decode_bands(parts, sides(place), bands, group), place)


@codec(
    decode=_decode,
    source="arXiv:2406.08903",
    grain="tensor",
    extras=[GRAM, FACTORS],
    size=_size,
    check=_one,
    workspace=12.0,
    limits={
        "bits": (0.01, 32.0), "group": (0, None), "damping": (0.0, None),
        **{f"at_{b}": (0, None) for b in (16, 8, 4, 3, 2)},
    },
)  # fmt: skip
def delta_come(
    delta: Float[torch.Tensor, "rows columns"],
    *,
    place: Place,
    gram: Mapping[str, torch.Tensor] | None,
    factors: Mapping[str, torch.Tensor] | None,
    bits: float | None = None,
    at_16: int = 0,
    at_8: int = 2,
    at_4: int = 0,
    at_3: int = 32,
    at_2: int | None = None,
    group: int = 128,
    act_order: bool = True,
    damping: float = 0.01,
    exact: bool = False,
) -> Mapping[str, torch.Tensor]:
    """Singular vectors of each matrix in few bits, the leading ones in more.

    Maths       δ = U Σ Vᵀ;  δ̂ = Σ over bands of Q(U) Σ Q(V)ᵀ, the leading band in 8 bits, then 3,
                then 2;  Q: asymmetric grids of groups of columns, by GPTQ where gram is given,
                to the nearest where not
                Cost for a matrix of M × k, p columns in all: a Gram matrix of Mk², its p leading
                eigenvectors, a product; by GPTQ a Cholesky factor of the inputs and of each band
    Keeps       Σ bits · columns · (out + in) a matrix, singular values in float32, a scale and a
                zero for each group; matrices of attention and MLP only, all else is the expert's
    Parameters  bits: bits a weight for the codes (1 by default), from which the number of columns
                of 2 bits follows. at_16, at_8, at_4, at_3: columns of so many bits, at_16 as they
                are. at_2: columns of 2 bits, in place of bits. group: columns that share a scale,
                0 for all. act_order: GPTQ takes columns of strong inputs first. damping: of GPTQ.
                exact: scales and at_16 in float32
    Error       the tail of the spectrum, and the rounding
    When        the best quality at one or two bits a weight; the decomposition takes its time
    Example     >>> compress("delta_come", [[0.0, 0.0]], [[3.0, 4.0]], bits=32.0)
                [[3.0, 4.0]]
    Departures  The authors' code simulates: it writes a dense model; this writes the codes. Every
                band of a matrix is calibrated on the same Gram matrix; their loop feeds the
                next band, and the next layer, what came out of the last.
    """
    bands = _bands(place=place, bits=bits, at_16=at_16, at_8=at_8, at_4=at_4, at_3=at_3, at_2=at_2)
    rank = sum(count for _, count in bands)
    return encode_bands(
        triplets(oriented(delta, place), rank, factors), bands,
        Rounding(group, exact, damping, act_order), None if gram is None else gram[""],
    )  # fmt: skip
