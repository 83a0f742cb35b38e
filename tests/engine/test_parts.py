"""Bits of experts: packed from blocks of any size, and unpacked from any element on."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cermet.core.errors import MethodError
from cermet.core.registry import Bits
from cermet.engine.geometry import geometry
from cermet.engine.parts import PartsOut, unpacked
from cermet.engine.target import MemoryTarget
from cermet.recipes.assembly import PartSlot

_BITS = Bits("mask")


def _slots(experts: int, size: int) -> list[PartSlot]:
    shape = (-(-size // 8),)
    return [PartSlot(f"mask/{i}/w", _BITS, i, "U8", shape) for i in range(experts)]


@given(
    size=st.integers(0, 70), cuts=st.lists(st.integers(0, 70), max_size=5), seed=st.integers(0, 99)
)
def test_packed_is_what_numpy_packs(size: int, cuts: list[int], seed: int) -> None:
    mask = torch.from_numpy(np.random.default_rng(seed).integers(0, 2, (2, size))).float()
    stored = [torch.zeros(-(-size // 8), dtype=torch.uint8) for _ in range(2)]
    out = PartsOut(_slots(2, size), [MemoryTarget(t) for t in stored])
    packer = out.piece(0, size)
    edges = sorted({0, size, *(c for c in cuts if c < size)})
    for begin, end in pairwise(edges):
        packer.add(begin, {"mask": mask[:, begin:end]})
    packer.finish()
    for row, found in zip(mask, stored, strict=True):
        assert found.tolist() == np.packbits(row.numpy() != 0, bitorder="little").tolist()
    for begin, end in pairwise(edges):
        part = unpacked(stored[1][begin // 8 : -(-end // 8)], begin, end - begin)
        assert torch.equal(part, mask[1, begin:end])


def test_rows_that_do_not_end_at_a_byte_are_refused() -> None:
    out = PartsOut(_slots(1, 9), [MemoryTarget(torch.zeros(2, dtype=torch.uint8))])
    out.check("mine", geometry((200_000, 9), "element", 64))
    out.check("mine", geometry((200_000, 9), "tensor", 64))
    with pytest.raises(MethodError, match="'mine' declares bits at the grain 'row'"):
        out.check("mine", geometry((20, 100_001), "row", 64))
    with pytest.raises(MethodError, match="grain 'column'"):
        out.check("mine", geometry((8, 8), "column", 64))
