"""A tensor's digest adds up over any cut, and no change of one lane goes unseen."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cermet.core.fingerprint import digest_bytes, digest_hex

_MASK = (1 << 64) - 1
_BYTES = np.random.default_rng(0).integers(0, 256, 3 * 131_072 + 13, dtype=np.uint8)


@given(st.lists(st.integers(0, 600), max_size=8), st.randoms())
def test_any_cut_in_any_order(cuts: list[int], chance: random.Random) -> None:
    data = _BYTES[:600]
    edges = [0, *sorted(cuts), 600]
    parts = list(pairwise(edges))
    chance.shuffle(parts)
    total = sum(digest_bytes(data[a:b], a) for a, b in parts)
    assert total & _MASK == digest_bytes(data, 0)


@pytest.mark.parametrize("step", [8, 131_071, 131_072, 200_000])
def test_cuts_across_rows_of_constants(step: int) -> None:
    """A row of constants covers 131,072 bytes; cuts fall inside, at and beyond its end."""
    parts = [digest_bytes(_BYTES[a : a + step], a) for a in range(0, len(_BYTES), step)]
    assert sum(parts) & _MASK == digest_bytes(_BYTES, 0)


@given(st.integers(0, len(_BYTES) - 1), st.integers(1, 255))
def test_one_changed_byte_is_seen(place: int, change: int) -> None:
    """Its lane's constant is odd, so the difference cannot vanish modulo 2**64."""
    lane = place // 8 * 8
    data = _BYTES[lane : lane + 8].copy()
    before = digest_bytes(data, lane)
    data[place - lane] ^= change
    assert digest_bytes(data, lane) != before


@pytest.mark.parametrize("row", [0, 1, 77])
def test_the_highest_bit_of_a_lane_is_seen(row: int) -> None:
    """It alone vanishes modulo 2**64 where a lane's constant is even."""
    bit = np.zeros(8, np.uint8)
    bit[7] = 128
    assert all(digest_bytes(bit, 131_072 * row + 8 * lane) for lane in range(200))


def test_lanes_have_their_places() -> None:
    """Two lanes that are exchanged, and a block that is moved by one lane or row, are seen."""
    data = _BYTES[:64].copy()
    exchanged = data.reshape(8, 8)[[1, 0, *range(2, 8)]].reshape(-1)
    assert digest_bytes(exchanged, 0) != digest_bytes(data, 0)
    assert len({digest_bytes(data, at) for at in (0, 8, 131_072, 2 * 131_072)}) == 4


def test_zeros_are_told_apart_by_their_length() -> None:
    zeros = np.zeros(64, np.uint8)
    assert digest_hex(digest_bytes(zeros, 0), 64) != digest_hex(digest_bytes(zeros[:8], 0), 8)


def test_text() -> None:
    assert digest_hex((5 << 64) + 255, 16) == "00000000000000ff-10"
