"""The leading singular triplets of a delta, with signs that do not depend on the library."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float

from cermet.core.codec import Extra
from cermet.core.errors import MismatchError
from cermet.core.types import Place
from cermet.maths.lowrank import truncated

__all__ = ["FACTORS", "oriented", "sides", "triplets"]

FACTORS = Extra(
    "factors",
    "singular triplets found before: u [out, rank], s [rank] and v [in, rank]",
    (".u", ".s", ".v"),
)


def sides(place: Place) -> tuple[int, int]:
    """Outputs and inputs of a matrix, however it is stored."""
    rows, columns = place.shape
    return (columns, rows) if place.transposed else (rows, columns)


def oriented(
    delta: Float[torch.Tensor, "rows columns"], place: Place
) -> Float[torch.Tensor, "out in"]:
    """A matrix as [out, in], and back."""
    return delta.t() if place.transposed else delta


def triplets(
    matrix: Float[torch.Tensor, "out in"],
    rank: int,
    given: Mapping[str, torch.Tensor] | None = None,
) -> tuple[
    Float[torch.Tensor, "out rank"], Float[torch.Tensor, "rank"], Float[torch.Tensor, "in rank"]
]:
    """u, s, v of the best approximation u diag(s) vᵀ of a rank; `given` holds them if known.

    The largest entry of each column of u is positive, the first of equal ones. MismatchError
    where what is given does not fit.
    """
    rank = min(rank, *matrix.shape)
    if given is not None:
        return _checked(matrix, rank, given)
    left, right = truncated(matrix, rank)
    if matrix.shape[0] <= matrix.shape[1]:
        sizes = right.double().norm(dim=1)
        u, v = left, right.t()
        v = v / _divisor(sizes)
    else:
        sizes = left.double().norm(dim=0)
        u, v = left / _divisor(sizes), right.t()
    places = u.abs().argmax(dim=0, keepdim=True)
    signs = u.gather(0, places).sign()[0]
    signs[signs == 0] = 1.0
    return (u * signs).contiguous(), sizes.float(), (v * signs).contiguous()


def _divisor(sizes: torch.Tensor) -> torch.Tensor:
    return sizes.masked_fill(sizes == 0, 1.0).float()


def _checked(
    matrix: torch.Tensor, rank: int, given: Mapping[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    u, s, v = (given[ending].float() for ending in FACTORS.endings)
    held = len(s) if s.ndim == 1 else -1
    if (tuple(u.shape), tuple(v.shape)) != ((matrix.shape[0], held), (matrix.shape[1], held)):
        raise MismatchError("its factors have other shapes than its delta")
    return u[:, :rank], s[:rank], v[:, :rank]
