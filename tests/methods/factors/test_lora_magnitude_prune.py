"""lora_magnitude_prune: exactly so many entries of each factor are kept."""

from __future__ import annotations

import pytest
import torch

import cermet
from tests.methods.factors.adapters import adapter, merged


@pytest.mark.parametrize("density", [0.0, 0.1, 0.5])
def test_so_many_entries_are_kept(density: float) -> None:
    pair = [adapter(4, 0), adapter(4, 1)]
    tensors, _ = cermet.merge_adapters("lora_magnitude_prune", pair, weight=[1, 0], density=density)
    for name, tensor in tensors.items():
        assert int((tensor != 0).sum()) == int(density * tensor.numel())
        kept = pair[0][0][name][tensor != 0].abs()
        left = pair[0][0][name][tensor == 0].abs()
        assert not len(kept) or kept.min() >= left.max()


def test_of_equal_magnitudes_the_first_are_kept() -> None:
    one, config = adapter(4, 0)
    flat = ({name: torch.ones_like(t) for name, t in one.items()}, config)
    found, _ = cermet.merge_adapters("lora_magnitude_prune", [flat] * 2, weight=0.25, density=0.25)
    assert found["x.lora_A.weight"].flatten().nonzero().flatten().tolist() == list(range(8))


def test_density_one_is_linear() -> None:
    pair = [adapter(4, 0), adapter(4, 1)]
    expected = merged("lora_linear", pair, weight=0.7)
    found = merged("lora_magnitude_prune", pair, weight=0.7, density=1)
    torch.testing.assert_close(found, expected)
