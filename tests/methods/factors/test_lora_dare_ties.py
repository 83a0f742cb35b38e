"""lora_dare_ties: seeded draws, of their adapter and module, that keep the mean."""

from __future__ import annotations

import torch

from tests.methods.factors.adapters import adapter, merged

PAIR = [adapter(4, 0), adapter(4, 1, 8)]


def test_the_seed_decides() -> None:
    given = {"weight": 0.7, "density": 0.4}
    first = merged("lora_dare_ties", PAIR, seed=1, **given)
    assert torch.equal(first, merged("lora_dare_ties", PAIR, seed=1, **given))
    assert not torch.equal(first, merged("lora_dare_ties", PAIR, seed=2, **given))


def test_density_one_is_ties() -> None:
    expected = merged("lora_ties", PAIR, weight=0.7, density=1)
    torch.testing.assert_close(merged("lora_dare_ties", PAIR, weight=0.7, density=1), expected)


def test_density_zero_is_nothing() -> None:
    assert not merged("lora_dare_ties", PAIR, weight=1, density=0).any()
