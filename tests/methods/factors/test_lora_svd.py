"""lora_svd: the delta of lora_reduced, but for rsLoRA and the clamp."""

from __future__ import annotations

import torch

from tests.methods.factors.adapters import adapter, merged

ADAPTERS = [adapter(2, 0, 4), adapter(3, 1, 2)]


def test_it_is_the_best_of_its_rank() -> None:
    given = {"weight": [0.8, -0.3], "rank": 2}
    expected = merged("lora_reduced", ADAPTERS, **given)
    torch.testing.assert_close(merged("lora_svd", ADAPTERS, **given), expected, rtol=0, atol=1e-5)


def test_rslora_of_the_first_makes_it_too_large() -> None:
    adapters = [adapter(2, 0, 4, use_rslora=True), adapter(3, 1, 2)]
    expected = merged("lora_reduced", adapters, weight=1, rank=4) * 2.0
    torch.testing.assert_close(
        merged("lora_svd", adapters, weight=1, rank=4), expected, rtol=0, atol=2e-5
    )


def test_a_clamp_at_one_takes_nothing_but_what_lies_beyond_the_largest_entry() -> None:
    adapters = [adapter(1, 0, 1), adapter(1, 1, 1)]
    plain = merged("lora_svd", adapters, weight=1, rank=2)
    clamped = merged("lora_svd", adapters, weight=1, rank=2, svd_clamp=0.5)
    assert torch.linalg.norm(clamped) < torch.linalg.norm(plain)


def test_a_rank_that_holds_all_gives_the_delta_of_cat() -> None:
    pair = [adapter(2, 0), adapter(3, 1)]
    found = merged("lora_svd", pair, weight=0.5, rank=5)
    torch.testing.assert_close(found, merged("lora_cat", pair, weight=0.5), rtol=0, atol=1e-5)
