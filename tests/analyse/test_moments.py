"""What a tensor holds, counted by hand, whatever the windows."""

from __future__ import annotations

import math
from functools import reduce

import pytest
import torch

from cermet.analyse import moments
from cermet.analyse.moments import Moments, matrix_of, moments_of, row_windows
from cermet.checkpoints.reader import MemoryCheckpoint
from cermet.core.fingerprint import digest_bytes


def _seen(tensor: torch.Tensor) -> Moments:
    shape, flat = tuple(tensor.shape), tensor.reshape(-1)
    parts = [moments_of(flat[w.start : w.stop], w.start, shape) for w in row_windows(shape)]
    return reduce(lambda a, b: a + b, parts)


def test_sizes_are_those_of_the_numbers() -> None:
    found = _seen(torch.tensor([[3.0, -4.0], [0.0, 0.5]]))
    assert (found.count, found.nonzero, found.nan, found.infinite) == (4, 3, 0, 0)
    assert found.norm == pytest.approx(math.sqrt(25.25))
    assert found.total == -0.5
    assert found.largest == 4.0
    assert found.constant is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_what_is_no_number_is_counted_and_left_out(dtype: torch.dtype) -> None:
    values = [[1.0, math.nan, 2.0], [math.inf, -math.inf, -3.0]]
    found = _seen(torch.tensor(values, dtype=dtype))
    assert (found.nan, found.infinite, found.first_bad) == (1, 2, 1)
    assert found.norm == pytest.approx(math.sqrt(14))
    assert found.largest == 3.0


def test_only_what_is_no_number() -> None:
    found = _seen(torch.full((3,), math.nan))
    assert (found.nan, found.norm, found.largest, found.constant) == (3, 0.0, 0.0, None)


def test_dead_rows_and_columns() -> None:
    tensor = torch.ones(4, 3)
    tensor[1] = tensor[3] = 0
    tensor[:, 2] = 0
    found = _seen(tensor)
    assert (found.dead_rows, found.dead_columns) == ((1, 3), 1)
    tensor[3, 2] = -1e-30
    found = _seen(tensor)
    assert (found.dead_rows, found.dead_columns) == ((1,), 0)


def test_constants_are_told_from_single_values() -> None:
    assert _seen(torch.full((2, 2), 0.5)).constant == 0.5
    assert _seen(torch.zeros(5)).constant == 0.0
    assert _seen(torch.ones(1)).constant is None
    assert _seen(torch.tensor([True, True])).constant == 1.0


def test_windows_hold_whole_rows_and_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    tensor[10] = 0
    tensor[:, 3] = 0
    tensor[44, 5] = math.inf
    whole = _seen(tensor)
    monkeypatch.setattr(moments, "_WINDOW", 24)
    assert [w.stop - w.start for w in row_windows((50, 7))][:2] == [21, 21]
    cut = _seen(tensor)
    assert (cut.dead_rows, cut.dead_columns, cut.first_bad) == ((10,), 1, 44 * 7 + 5)
    assert cut.digest % 2**64 == whole.digest % 2**64
    assert cut.square == pytest.approx(whole.square, rel=1e-14)


def test_the_digest_is_that_of_a_merge() -> None:
    tensor = torch.arange(10, dtype=torch.bfloat16)
    raw = tensor.view(torch.uint8).numpy()
    assert _seen(tensor).digest % 2**64 == digest_bytes(raw, 0)


def test_tensors_as_matrices() -> None:
    assert matrix_of((5,)) is None
    assert matrix_of((0, 5)) is None
    assert matrix_of((2, 3)) == (2, 3)
    assert matrix_of((4, 8, 32)) == (32, 32)  # fused experts, one below another
    assert matrix_of((8, 3, 2)) == (8, 6)  # a convolution with a kernel of two
    assert matrix_of((8, 3, 5, 5)) == (8, 75)
    assert matrix_of((1, moments._WIDEST + 1)) is None
    assert row_windows((0, 5)) == []


def test_a_view_that_is_not_contiguous_has_the_digest_of_its_copy() -> None:
    strided = torch.arange(12.0).reshape(3, 4).t()
    one = MemoryCheckpoint("a", {"x": strided}).block("x", 0, 12)
    assert moments_of(one, 0, (4, 3)).digest == moments_of(strided.reshape(-1), 0, (4, 3)).digest
