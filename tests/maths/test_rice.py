"""Golomb-Rice runs come back, are near their entropy, and are refused where they are damaged."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cermet.maths.rice import decode_ternary, encode_ternary, entropy


def _values(count: int, density: float, seed: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    kept = torch.rand(count, generator=draw) < density
    signs = torch.where(torch.rand(count, generator=draw) < 0.5, -1, 1)
    return (kept * signs).to(torch.int8)


@given(
    count=st.integers(0, 400),
    density=st.sampled_from([0.0, 0.003, 0.1, 0.5, 1.0]),
    seed=st.integers(0, 9),
)
def test_there_and_back(count: int, density: float, seed: int) -> None:
    values = _values(count, density, seed)
    assert torch.equal(decode_ternary(encode_ternary(values), count), values.float())


@pytest.mark.parametrize("density", [0.001, 0.01, 0.05, 0.2, 0.5, 0.9])
def test_near_the_entropy(density: float) -> None:
    count = 200_000
    bits = 8 * len(encode_ternary(_values(count, density, 1))) / count
    assert entropy(density) * 0.97 < bits < entropy(density) * (1.5 if density > 0.5 else 1.06)


def test_entropy_of_the_paper() -> None:
    assert [round(entropy(d), 2) for d in (0.05, 0.1, 0.2)] == [0.34, 0.57, 0.92]
    assert (entropy(0.0), entropy(1.0)) == (0.0, 1.0)


@given(place=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_damage_is_an_error_or_other_numbers(place: int, bit: int) -> None:
    """Never more than `count` elements, an index error, or a hang."""
    stored = encode_ternary(_values(500, 0.1, 2))
    stored[place % len(stored)] ^= 1 << bit
    try:
        found = decode_ternary(stored, 500)
    except ValueError:
        return
    assert found.shape == (500,)
    assert set(found.tolist()) <= {-1.0, 0.0, 1.0}


def test_runs_that_are_cut_short() -> None:
    stored = encode_ternary(_values(500, 0.1, 2))
    for length in (0, 8, len(stored) - 1):
        with pytest.raises(ValueError, match="run"):
            decode_ternary(stored[:length], 500)
    with pytest.raises(ValueError, match=r"beyond its end|another length"):
        decode_ternary(stored, 20)
