"""lora_ties_svd: TIES of the deltas, elected without the weights."""

from __future__ import annotations

import torch

from tests.methods.factors.adapters import adapter, delta, merged

PAIR = [adapter(2, 0, 4), adapter(3, 1, 2)]


def test_what_agrees_is_averaged_by_count() -> None:
    deltas = torch.stack([delta(one) for one in PAIR])
    sign = torch.where(deltas.sum(dim=0) >= 0, 1.0, -1.0)
    agree = deltas.sign() == sign
    weights = torch.tensor([0.5, 2.0]).view(2, 1, 1)
    expected = (deltas * weights * agree).sum(dim=0) / agree.sum(dim=0).clamp_min(1)
    found = merged("lora_ties_svd", PAIR, weight=[0.5, 2.0], density=1, rank=8)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
