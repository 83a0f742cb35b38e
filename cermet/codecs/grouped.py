"""Deltas rounded to whole numbers in groups that share a scale: what int4 and int8 declare."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod

from cermet.core.codec import codec
from cermet.core.types import Place
from cermet.maths.packing import packed_size

__all__ = ["bytes_of", "grouped"]


def _covers(*, place: Place) -> bool:
    return len(place.shape) > 1


def _power(*, group: int) -> str | None:
    return None if group & (group - 1) == 0 else f"group must be a power of two, not {group}"


def bytes_of(bits: int) -> Callable[..., int]:
    """Bytes of a tensor's codes of so many bits, and of the scales of its groups in bfloat16."""

    def size(*, place: Place, group: int) -> int:
        numel = prod(place.shape)
        return packed_size(numel, bits) + 2 * -(-numel // group)

    return size


grouped = partial(
    codec, source="round to nearest", covers=_covers, check=_power, limits={"group": (8, 65536)}
)
"""Declares a codec of matrices whose parameter `group` is a power of two."""
