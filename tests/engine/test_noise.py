"""Random draws are a function of seed, tensor, model and position, and of nothing else."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cermet.core.noise import RESOLUTION, Stream

_LENGTH = 400


@given(st.lists(st.integers(0, _LENGTH), max_size=12), st.randoms())
def test_any_split_gives_the_same_draws(cuts: list[int], chance: random.Random) -> None:
    """In any order, too: a stream jumps to where it is asked to be."""
    whole = Stream(7, "w", 1).draw(0, _LENGTH)
    edges = [0, *sorted(cuts), _LENGTH]
    parts = list(pairwise(edges))
    chance.shuffle(parts)
    stream = Stream(7, "w", 1)
    for start, stop in parts:
        assert np.array_equal(stream.draw(start, stop), whole[start:stop])


@pytest.mark.parametrize("other", [(8, "w", 1), (7, "v", 1), (7, "w", 2)])
def test_everything_counts(other: tuple[int, str, int]) -> None:
    same = (Stream(7, "w", 1).draw(0, 4096) == Stream(*other).draw(0, 4096)).mean()
    assert same < 0.01


def test_names_are_not_run_together() -> None:
    """Tensor 'w1' of model 1 is not tensor 'w' of model 11."""
    one, other = Stream(7, "w1", 1).draw(0, 64), Stream(7, "w", 11).draw(0, 64)
    assert not np.array_equal(one, other)


def test_far_positions() -> None:
    """A tensor of 10**12 elements does not have to be drawn from its start."""
    near, far = 10**12, 10**12 + 100
    stream = Stream(0, "w", 0)
    drawn = stream.draw(near, far)
    stream.draw(3, 9)
    assert np.array_equal(stream.draw(near + 50, far), drawn[50:])


def test_uniform() -> None:
    """Every 16-bit value is as likely as any other (chi-squared over 256 classes)."""
    drawn = Stream(1, "w", 0).draw(0, 1 << 20)
    assert drawn.dtype == np.uint16
    for byte in (drawn >> 8, drawn & 255):
        counts = np.bincount(byte, minlength=256)
        expected = drawn.size / 256
        chi = float(((counts - expected) ** 2 / expected).sum())
        assert 140 < chi < 400  # 255 ± 6 standard deviations
    assert abs(float((drawn < 0.3 * RESOLUTION).mean()) - 0.3) < 0.003
