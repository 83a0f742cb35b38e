"""Grids: the nearest value, groups, halves to even, and GPTQ against plain rounding."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cermet.maths.gridding import gptq, nearest, values_of
from cermet.maths.groups import from_groups, to_groups


def _matrix(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@given(
    rows=st.integers(1, 6), columns=st.integers(1, 20), bits=st.integers(2, 8),
    group=st.sampled_from([0, 1, 3, 8, 128]),
)  # fmt: skip
def test_within_half_a_step(rows: int, columns: int, bits: int, group: int) -> None:
    matrix = _matrix(rows, columns, bits)
    found = values_of(nearest(matrix, bits, group, torch.float32), group)
    size = group or columns
    for start in range(0, columns, size):
        own = matrix[:, start : start + size]
        low, high = own.amin(dim=1).clamp(max=0), own.amax(dim=1).clamp(min=0)
        step = (high - low) / (2**bits - 1)
        # the zero of a grid is a whole number, so its ends may lie half a step beside
        off = (found[:, start : start + size] - own).abs()
        assert (off <= step[:, None] * 1.001 + 1e-6).all()


def test_a_group_of_zeros_has_no_grid_of_its_own() -> None:
    """Its grid reaches from -1 to 1, as in the authors' code, and need not hold zero itself."""
    grid = nearest(torch.zeros(2, 4), 3, 2, torch.float32)
    assert grid.scales.unique().tolist() == pytest.approx([2 / 7])
    assert values_of(grid, 2).abs().amax() == 0  # a whole zero stands for it


def test_without_a_gram_of_interest_it_is_rounding() -> None:
    """Independent inputs of one strength leave nothing to make good."""
    matrix = _matrix(5, 12)
    for ordered in (False, True):
        grid = gptq(matrix, torch.eye(12), 3, 4, torch.float32, damping=0.01, ordered=ordered)
        plain = nearest(matrix, 3, 4, torch.float32)
        assert torch.equal(values_of(grid, 4), values_of(plain, 4))


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("columns", [24, 200])
def test_gptq_is_better_on_its_inputs(ordered: bool, columns: int) -> None:
    matrix, inputs = _matrix(16, columns), _matrix(600, 6, 1) @ _matrix(6, columns, 2)
    inputs += 0.2 * _matrix(600, columns, 3)
    inputs[:, 3] = 0.0  # an input that never comes
    gram = inputs.t() @ inputs
    off = [
        float((inputs @ (values_of(grid, 8) - matrix).t()).norm())
        for grid in (
            nearest(matrix, 3, 8, torch.float32),
            gptq(matrix, gram, 3, 8, torch.float32, damping=0.01, ordered=ordered),
            gptq(matrix, 1e6 * gram, 3, 8, torch.float32, damping=0.01, ordered=ordered),
        )
    ]
    assert off[1] < 0.7 * off[0]
    assert off[2] == pytest.approx(off[1], rel=1e-3)  # any factor will do


def test_a_gram_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="not positive definite"):
        gptq(_matrix(2, 3), -torch.eye(3), 3, 0, torch.float32, damping=0.0, ordered=False)


@given(count=st.integers(1, 300), bits=st.sampled_from([4, 8]), group=st.sampled_from([8, 64]))
def test_symmetric_groups(count: int, bits: int, group: int) -> None:
    values = _matrix(1, count, bits)[0]
    values[: count // 3] = 0.0
    codes, scale = to_groups(values, bits, group)
    found = from_groups(codes, scale, group)
    assert torch.equal(found[: count // 3], torch.zeros(count // 3))
    step = scale.float().repeat_interleave(group)[:count]
    most = 2 ** (bits - 1) - 1
    assert ((found - values).abs() <= step * (0.5 + most / 256)).all()
    with pytest.raises(ValueError, match="scales"):
        from_groups(codes, scale[:0], group)
