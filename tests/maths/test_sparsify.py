"""Sparse deltas: trimming at a cutoff, random masks, masks by rank."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cermet.maths.select import Cutoff, kept_mask
from cermet.maths.sparsify import (
    magnitudes,
    random_mask,
    rank_mask,
    rescale_factors,
    trim,
    trim_both,
)


def _cutoff(*rows: tuple[float, int]) -> Cutoff:
    return Cutoff(tuple((v,) for v, _ in rows), tuple((e,) for _, e in rows))


def test_trim_keeps_what_the_mask_keeps() -> None:
    """Ties at the threshold up to the end, then only what is above."""
    deltas = torch.tensor([[1.0, -2, 2, -3], [4.0, -4, 4, 5]])
    kept = trim(deltas, _cutoff((2.0, 2), (4.0, 1)))
    assert kept.tolist() == [[0, -2, 0, -3], [4, 0, 0, 5]]


@given(
    st.lists(st.sampled_from([0.0, -0.5, 0.5, 1.0, -1.0]), min_size=1, max_size=30),
    st.sampled_from([0.0, 0.5, 1.0, math.inf, -math.inf]),
    st.integers(-2, 33),
)
def test_trim_is_the_mask_times_the_delta(numbers: list[float], value: float, end: int) -> None:
    end = 0 if value == math.inf else len(numbers) if value == -math.inf else end
    deltas, cutoff = torch.tensor([numbers]), _cutoff((value, end))
    assert torch.equal(trim(deltas, cutoff)[0], deltas[0] * kept_mask(deltas[0].abs(), cutoff))


def test_the_threshold_is_kept_to_the_last_bit() -> None:
    """The next smaller number is not kept; subnormal thresholds are no exception."""
    for value in (1.0, 0.1, 3e-39, float(np.finfo(np.float32).tiny)):
        above = np.float32(value)
        below = np.nextafter(above, np.float32(0))
        deltas = torch.tensor([[above, -above, below, -below]])
        kept = trim(deltas, _cutoff((float(above), 4)))
        assert kept.tolist() == [[float(above), -float(above), 0, 0]]


def test_a_band_is_one_cutoff_without_the_other() -> None:
    deltas = torch.tensor([[9.0, 1, -3, 2]])
    band = Cutoff(((2.0, 9.0),), ((4, 4),))
    assert trim_both(deltas, band).tolist() == [[0, 0, -3, 2]]


def test_trim_leaves_its_input_alone() -> None:
    deltas = torch.tensor([[1.0, -2.0]])
    trim(deltas, _cutoff((-math.inf, 2)))[0, 0] = 7
    trim_both(deltas, Cutoff(((-math.inf, math.inf),), ((2, 0),)))
    assert deltas.tolist() == [[1.0, -2.0]]
    assert magnitudes(deltas).tolist() == [[1.0, 2.0]]


def test_factors_restore_the_norm_where_there_is_one() -> None:
    before = torch.tensor([6.0, 1e-8, 5.0, 0.0])
    after = torch.tensor([2.0, 1e-9, 0.0, 0.0])
    assert rescale_factors(before, after) == (3.0, 1.0, 1.0, 1.0)


def test_random_masks_compare_draws_with_the_density() -> None:
    noise = torch.tensor([[0.0, 0.5, 0.9], [0.0, 0.5, 0.9]])
    assert random_mask(noise, [0.5, 0.6]).tolist() == [[1, 0, 0], [1, 1, 0]]


def _by_ranking(delta: Tensor, draw: Tensor, density: float, epsilon: float) -> Tensor:
    """The mask by its definition: rank the entries of a row, then compare."""
    columns = delta.shape[-1]
    half = columns // 2 + columns % 2
    # Of equal magnitudes those in the first half of the row count as larger.
    key = [[(float(v), c < half) for c, v in enumerate(row)] for row in delta.abs()]
    mask = torch.zeros_like(delta)
    for i, row in enumerate(key):
        for c, own in enumerate(row):
            below = sum(k < own for k in row)
            equal = sum(k == own for k in row)
            lowest, step = density - epsilon, 2 * epsilon / (columns - 1)
            # Equal entries of one half share the best rank (first half) or the worst.
            rank = below + equal - 1 if own[1] else below
            mask[i, c] = float(draw[i, c]) < lowest + step * rank
    return mask


@pytest.mark.parametrize("columns", [2, 3, 8, 17])
def test_rank_masks_are_those_of_the_definition(columns: int) -> None:
    own = torch.Generator().manual_seed(columns)
    for _ in range(20):
        delta = torch.randn(5, columns, generator=own)
        # draws away from the steps, where rounding would decide
        draw = (torch.randint(0, 997, (5, columns), generator=own) + 0.37) / 997
        mask = rank_mask(delta[None], draw[None], [0.5], [0.3])
        assert torch.equal(mask[0], _by_ranking(delta, draw, 0.5, 0.3))


@pytest.mark.parametrize("columns", [4, 7, 64])
def test_the_mean_probability_is_the_density_even_where_all_are_equal(columns: int) -> None:
    draw = (torch.arange(997.0) + 0.5).div(997)[:, None].expand(997, columns).contiguous()
    share = rank_mask(torch.ones(1, 997, columns), draw[None], [0.4], [0.3]).mean()
    assert float(share) == pytest.approx(0.4, abs=0.3 / columns + 0.01)


@pytest.mark.parametrize(
    ("density", "epsilon", "shape"), [(1.0, 0.5, (2, 3)), (0.0, 0.5, (2, 3)), (0.5, 0.3, (4, 1))]
)
def test_rank_masks_without_ranks_are_random_masks(
    density: float, epsilon: float, shape: tuple[int, int]
) -> None:
    draw = torch.rand((1, *shape), generator=torch.Generator().manual_seed(0))
    mask = rank_mask(torch.ones(1, *shape), draw, [density], [epsilon])
    assert torch.equal(mask, random_mask(draw, [density]))


def test_every_model_has_its_own_window() -> None:
    deltas = torch.tensor([[1.0, 2.0], [1.0, 2.0]])[:, None]
    noise = torch.full((2, 1, 2), 0.45)
    mask = rank_mask(deltas, noise, [0.5, 0.5], [0.0, 0.2])
    assert mask[:, 0].tolist() == [[1, 1], [0, 1]]
