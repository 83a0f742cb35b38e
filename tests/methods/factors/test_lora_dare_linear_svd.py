"""lora_dare_linear_svd: seeded draws, of their adapter and module, that keep the mean."""

from __future__ import annotations

import torch

from tests.methods.factors.adapters import adapter, merged

PAIR = [adapter(4, 0), adapter(4, 1, 8)]


def test_the_seed_decides() -> None:
    given = {"weight": 0.7, "density": 0.4}
    first = merged("lora_dare_linear_svd", PAIR, seed=1, **given)
    assert torch.equal(first, merged("lora_dare_linear_svd", PAIR, seed=1, **given))
    assert not torch.equal(first, merged("lora_dare_linear_svd", PAIR, seed=2, **given))


def test_the_mean_over_seeds_is_the_sum() -> None:
    given = {"weight": 0.7, "density": 0.9, "rank": 8}
    found = [merged("lora_dare_linear_svd", PAIR, seed=seed, **given) for seed in range(60)]
    expected = merged("lora_sum", PAIR, weight=0.7)
    error = torch.linalg.norm(torch.stack(found).mean(dim=0) - expected)
    assert error < 0.1 * torch.linalg.norm(expected)


def test_density_zero_is_nothing() -> None:
    assert not merged("lora_dare_linear_svd", PAIR, weight=1, density=0).any()
