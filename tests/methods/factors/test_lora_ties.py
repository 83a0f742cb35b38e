"""lora_ties: elects without the weights, and divides by how many agree."""

from __future__ import annotations

import torch

from tests.methods.factors.adapters import Adapter, merged


def _one(a: list[float], b: list[float]) -> Adapter:
    tensors = {"x.lora_A.weight": torch.tensor([a]), "x.lora_B.weight": torch.tensor([b]).t()}
    return {k: t.contiguous() for k, t in tensors.items()}, {
        "peft_type": "LORA", "r": 1, "lora_alpha": 1,
    }  # fmt: skip


def test_by_hand() -> None:
    """A: sums 1 and -3, so the first agrees in both, the second in the second alone."""
    given = [_one([2.0, 1.0], [1.0]), _one([-1.0, -4.0], [1.0])]
    found = merged("lora_ties", given, weight=[1, 4], density=1)
    a = torch.tensor([2.0, 2 * -4.0])  # +: the first alone; -: the second alone
    b = (1.0 + 2.0) / 2
    torch.testing.assert_close(found, b * a[None].double())


def test_by_frequency_the_signs_vote() -> None:
    """Two of three are positive, their sum is not."""
    given = [_one([1.0], [1.0]), _one([1.0], [1.0]), _one([-5.0], [1.0])]
    by_size = merged("lora_ties", given, weight=1, density=1)
    by_count = merged("lora_ties", given, weight=1, density=1, majority_sign_method="frequency")
    assert (by_size.item(), by_count.item()) == (-5.0, 1.0)
