"""lora_magnitude_prune_svd: prunes the deltas themselves."""

from __future__ import annotations

import torch

from tests.methods.factors.adapters import adapter, delta, merged, true_sum

PAIR = [adapter(2, 0, 4), adapter(3, 1, 2)]


def test_the_largest_entries_of_each_delta_are_added() -> None:
    expected = torch.zeros(10, 8).double()
    for one, weight in zip(PAIR, (0.5, -1.0), strict=True):
        flat = delta(one).flatten()
        kept = flat.abs().topk(40).indices
        expected += weight * torch.zeros(80).double().index_copy(0, kept, flat[kept]).view(10, 8)
    found = merged("lora_magnitude_prune_svd", PAIR, weight=[0.5, -1.0], density=0.5, rank=8)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_density_one_is_the_sum() -> None:
    found = merged("lora_magnitude_prune_svd", PAIR, weight=[0.5, 1.0], density=1, rank=5)
    torch.testing.assert_close(found, true_sum(PAIR, [0.5, 1.0]), rtol=0, atol=1e-5)
