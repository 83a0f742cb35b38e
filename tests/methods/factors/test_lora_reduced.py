"""lora_reduced: no adapter of its rank is nearer to the sum."""

from __future__ import annotations

import pytest
import torch

from tests.methods.factors.adapters import adapter, merged, true_sum

ADAPTERS = [adapter(2, 0, 4), adapter(3, 1, 2, use_rslora=True), adapter(1, 2)]
WEIGHTS = [0.7, -1.1, 0.4]


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_the_error_is_that_of_the_best(rank: int) -> None:
    expected = true_sum(ADAPTERS, WEIGHTS)
    found = merged("lora_reduced", ADAPTERS, weight=WEIGHTS, rank=rank)
    values = torch.linalg.svdvals(expected)
    error = torch.linalg.norm(expected - found)
    assert float(error) == pytest.approx(float(values[rank:].norm()), abs=1e-5)
    assert torch.linalg.matrix_rank(found, atol=1e-5) == rank


@pytest.mark.parametrize("rank", [6, 8, 20])
def test_a_rank_that_holds_all_gives_the_sum(rank: int) -> None:
    found = merged("lora_reduced", ADAPTERS, weight=WEIGHTS, rank=rank)
    torch.testing.assert_close(found, true_sum(ADAPTERS, WEIGHTS), rtol=0, atol=1e-5)


def test_a_single_adapter_is_made_smaller() -> None:
    found = merged("lora_reduced", ADAPTERS[1:2], weight=1, rank=1)
    assert torch.linalg.matrix_rank(found, atol=1e-5) == 1


def test_the_largest_rank_is_the_default() -> None:
    found = merged("lora_reduced", ADAPTERS, weight=WEIGHTS)
    assert torch.linalg.matrix_rank(found, atol=1e-5) == 3
