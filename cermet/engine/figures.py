"""What a compression is worth: bits a weight and relative error, by role and by layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cermet.checkpoints.dtypes import SIZES
from cermet.core.types import Place
from cermet.engine.compress import Encoded

__all__ = ["Row", "rows", "together"]


@dataclass(frozen=True, slots=True)
class Row:
    """Some tensors of a compressed expert.

    tensors, weights, bytes: how many, their elements, and the bytes of their parts.
    bits: a weight. error: Frobenius norm of what is wrong when restored, over that of the delta;
    0 where nothing has changed. kept: in how many of them what is kept is the codec's parts
    (coded), the expert's own bytes (expert), or nothing (base, same).
    """

    name: str
    tensors: int
    weights: int
    bytes: int
    bits: float
    error: float
    kept: Mapping[str, int]
    squares: float  # of the delta


def rows(
    encoded: Encoded, places: Sequence[Place], label: Callable[[Place], str]
) -> tuple[Row, ...]:
    """The tensors grouped by a label of their places, in the order in which labels come up."""
    groups: dict[str, list[Place]] = {}
    for place in places:
        groups.setdefault(label(place), []).append(place)
    return tuple(_row(encoded, name, group) for name, group in groups.items())


def _row(encoded: Encoded, name: str, places: Sequence[Place]) -> Row:
    weights = sum(math.prod(place.shape) for place in places)
    kept: dict[str, int] = {}
    nbytes = 0
    for place in places:
        entry = encoded.entries[place.name]
        kept[entry.how] = kept.get(entry.how, 0) + 1
        nbytes += sum(SIZES[p.dtype] * math.prod(p.shape) for p in entry.parts.values())
    delta, error = (
        math.fsum(squares[place.name] for place in places)
        for squares in (encoded.delta, encoded.error)
    )
    return Row(
        name, len(places), weights, nbytes, 8 * nbytes / weights if weights else 0.0,
        math.sqrt(error / delta) if delta else 0.0, kept, delta,
    )  # fmt: skip


def together(several: Sequence[Row]) -> Row:
    """Some rows as one."""
    first, last = several[0], several[-1]
    weights, nbytes = (sum(getattr(r, name) for r in several) for name in ("weights", "bytes"))
    delta = math.fsum(r.squares for r in several)
    error = math.fsum(r.error**2 * r.squares for r in several)
    kept: dict[str, int] = {}
    for row in several:
        for how, count in row.kept.items():
            kept[how] = kept.get(how, 0) + count
    return Row(
        first.name if len(several) == 1 else f"{first.name} to {last.name}",
        sum(r.tensors for r in several), weights, nbytes,
        8 * nbytes / weights if weights else 0.0,
        math.sqrt(error / delta) if delta else 0.0, kept, delta,
    )  # fmt: skip
