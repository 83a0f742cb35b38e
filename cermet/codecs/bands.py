"""Singular triplets in bands of falling precision: what Delta-CoMe and GraftLLM store.

Parts of a matrix, its bands one after another, those of most bits first, and in each V before U:
`codes` and `zeros` (packed), `scales`; and `sigma`, the singular values; `whole`, the factors of
the band that is not rounded; `order`, the order of columns that GPTQ has used, first of V, then
of each band's U.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float

from cermet.core.codec import Extra
from cermet.core.errors import MismatchError
from cermet.maths.gridding import Grid, gptq, nearest, values_of
from cermet.maths.packing import pack, packed_size, unpack

__all__ = [
    "GRAM",
    "Bands",
    "Rounding",
    "banded_size",
    "decode_bands",
    "encode_bands",
    "fitted_bands",
]

Bands = Sequence[tuple[int, int]]
"""Bits and number of columns of each band, most bits first."""

GRAM = Extra("gram", "the Gram matrix [in, in] of the inputs of a layer, times any factor", ("",))

_WHOLE = 16  # bits of a band that is not rounded


def fitted_bands(
    counts: Mapping[int, int], rank: int, budget: float | None
) -> list[tuple[int, int]]:
    """Columns of each width, within the rank and, where there is one, a budget in bits a column.

    What the budget leaves is filled with columns of 2 bits, and what is left when the rank is
    used up goes into more bits, the narrowest columns first.
    """
    found: dict[int, int] = {}
    left = float("inf") if budget is None else budget
    for bits in sorted(counts, reverse=True):
        found[bits] = int(min(counts[bits], rank - sum(found.values()), left // bits))
        left -= bits * found[bits]
    if budget is not None:
        more = int(min(rank - sum(found.values()), left // 2))
        found[2] = found.get(2, 0) + more
        left -= 2 * more
        for low, high in ((2, 3), (3, 4), (4, 8), (8, _WHOLE)):
            moved = int(min(found.get(low, 0), left // (high - low)))
            found[low] = found.get(low, 0) - moved
            found[high] = found.get(high, 0) + moved
            left -= moved * (high - low)
    return [(bits, found[bits]) for bits in sorted(found, reverse=True) if found[bits]]


def _slices(bands: Bands) -> Iterator[tuple[int, slice]]:
    start = 0
    for bits, count in bands:
        yield bits, slice(start, start + count)
        start += count


def _groups(columns: int, group: int) -> int:
    return -(-columns // group) if group else 1


def banded_size(sides: tuple[int, int], bands: Bands, group: int, *, exact: bool) -> int:
    """Bytes of the parts that are made without a Gram matrix."""
    out, into = sides
    total = 4 * sum(count for _, count in bands)
    for bits, count in bands:
        if bits == _WHOLE:
            total += (4 if exact else 2) * count * (out + into)
            continue
        for rows, columns in ((count, into), (out, count)):
            grids = rows * _groups(columns, group)
            total += packed_size(rows * columns, bits) + packed_size(grids, bits)
            total += (4 if exact else 2) * grids
    return total


@dataclass(frozen=True, slots=True)
class Rounding:
    """How factors are rounded.

    group: columns that share a scale, 0 for all. exact: scales and what is not rounded in
    float32, not bfloat16 and float16. damping, ordered: of GPTQ.
    """

    group: int
    exact: bool = False
    damping: float = 0.01
    ordered: bool = True

    def grid(self, side: torch.Tensor, bits: int, inputs: torch.Tensor | None) -> Grid:
        """A factor on its grid: by GPTQ where the Gram matrix of its inputs is known."""
        side, kept = side.contiguous(), torch.float32 if self.exact else torch.bfloat16
        if inputs is None:
            return nearest(side, bits, self.group, kept)
        return gptq(
            side, inputs, bits, self.group, kept, damping=self.damping, ordered=self.ordered
        )


def encode_bands(
    factors: tuple[
        Float[torch.Tensor, "out rank"], Float[torch.Tensor, "rank"], Float[torch.Tensor, "in rank"]
    ],
    bands: Bands,
    rounding: Rounding,
    gram: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """The parts of u diag(s) vᵀ; with a Gram matrix of the inputs by GPTQ, else to the nearest."""
    u, s, v = factors
    if gram is not None and tuple(gram.shape) != (len(v), len(v)):
        raise MismatchError(f"its Gram matrix is {list(gram.shape)}, not {[len(v), len(v)]}")
    parts: dict[str, list[torch.Tensor]] = {
        "sigma": [s[: sum(count for _, count in bands)].clone()]
    }
    kept = torch.float32 if rounding.exact else torch.float16
    for bits, band in _slices(bands):
        sides = v[:, band].t(), u[:, band]
        if bits == _WHOLE:
            _add(parts, "whole", *(side.reshape(-1).to(kept) for side in sides))
            continue
        inner = rounding.grid(sides[0], bits, gram)
        outer = rounding.grid(sides[1], bits, _inputs(inner, s[band], gram, rounding.group))
        for grid in (inner, outer):
            _add(parts, "codes", pack(grid.codes.reshape(-1), bits))
            _add(parts, "zeros", pack(grid.zeros.reshape(-1), bits))
            _add(parts, "scales", grid.scales.reshape(-1))
        # the order of V's columns is that of the inputs, the same for every band
        for grid in (inner, outer) if "order" not in parts else (outer,):
            if grid.order is not None:
                _add(parts, "order", grid.order.to(torch.int32))
    return {name: torch.cat(held) for name, held in parts.items()}


def _add(parts: dict[str, list[torch.Tensor]], name: str, *held: torch.Tensor) -> None:
    parts.setdefault(name, []).extend(held)


def _inputs(
    inner: Grid, sizes: torch.Tensor, gram: torch.Tensor | None, group: int
) -> torch.Tensor | None:
    """The Gram matrix of what U gets: the inputs after the rounded V and the singular values."""
    if gram is None:
        return None
    through = (values_of(inner, group) * sizes[:, None]).double()
    return through @ gram.double() @ through.t()


def decode_bands(
    parts: Mapping[str, torch.Tensor | None], sides: tuple[int, int], bands: Bands, group: int
) -> Float[torch.Tensor, "out in"]:
    """The matrix that the parts stand for; ValueError where they do not fit."""
    out, into = sides
    reader = _Reader(parts)
    sigma = reader.take("sigma", sum(count for _, count in bands))
    total = sigma.new_zeros(out, into)
    columns: torch.Tensor | None = None
    for bits, band in _slices(bands):
        count = band.stop - band.start
        if bits == _WHOLE:
            v = reader.take("whole", count * into).view(count, into).float()
            u = reader.take("whole", count * out).view(out, count).float()
        else:
            if parts.get("order") is not None and columns is None:
                columns = reader.order(into)
            v = values_of(reader.grid(bits, count, into, group, columns), group)
            own = reader.order(count) if parts.get("order") is not None else None
            u = values_of(reader.grid(bits, out, count, group, own), group)
        total.addmm_(u * sigma[band], v)
    reader.finish()
    return total


class _Reader:
    """Takes the parts in the order in which they were put together."""

    def __init__(self, parts: Mapping[str, torch.Tensor | None]) -> None:
        self._parts = {name: part for name, part in parts.items() if part is not None}
        self._at = dict.fromkeys(self._parts, 0)

    def take(self, name: str, count: int) -> torch.Tensor:
        if name not in self._parts or len(self._parts[name]) < self._at[name] + count:
            raise ValueError(f"its {name} are cut short")
        start = self._at[name]
        self._at[name] = start + count
        return self._parts[name][start : start + count]

    def order(self, count: int) -> torch.Tensor:
        found = self.take("order", count).long()
        if not torch.equal(found.sort().values, torch.arange(count, device=found.device)):
            raise ValueError("its order is not one of its columns")
        return found

    def grid(
        self, bits: int, rows: int, columns: int, group: int, order: torch.Tensor | None
    ) -> Grid:
        grids = rows * _groups(columns, group)
        codes = unpack(self.take("codes", packed_size(rows * columns, bits)), bits, rows * columns)
        zeros = unpack(self.take("zeros", packed_size(grids, bits)), bits, grids)
        scales = self.take("scales", grids).view(rows, -1)
        return Grid(codes.view(rows, columns), scales, zeros.view(rows, -1), order)

    def finish(self) -> None:
        over = [name for name, part in self._parts.items() if len(part) != self._at[name]]
        if over:
            raise ValueError(f"its {over[0]} are longer than they can be")
