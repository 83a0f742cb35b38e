"""Packed numbers come back, in the order and the size that the archive's page states."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cermet.maths.packing import pack, packed_size, unpack


@given(bits=st.integers(1, 8), count=st.integers(0, 200), seed=st.integers(0, 9))
def test_there_and_back(bits: int, count: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 1 << bits, (count,), dtype=torch.uint8, generator=draw)
    stored = pack(codes, bits)
    assert len(stored) == packed_size(count, bits) == -(-count * bits // 8)
    assert torch.equal(unpack(stored, bits, count), codes)


@pytest.mark.parametrize("bits", range(1, 9))
def test_the_first_number_is_in_the_lowest_bits(bits: int) -> None:
    codes = torch.tensor([1, 0, (1 << bits) - 1], dtype=torch.uint8)
    number = sum(int(byte) << (8 * i) for i, byte in enumerate(pack(codes, bits)))
    assert number == 1 + (((1 << bits) - 1) << (2 * bits))


def test_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="5 numbers of 3 bits take 2 bytes, not 3"):
        unpack(torch.zeros(3, dtype=torch.uint8), 3, 5)
