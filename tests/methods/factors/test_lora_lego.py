"""lora_lego: units of all adapters, clustered; the sum where nothing is clustered."""

from __future__ import annotations

import torch

from tests.methods.factors.adapters import adapter, delta, merged, true_sum

PAIR = [adapter(2, 0, 4), adapter(3, 1, 2)]


def test_a_cluster_for_each_unit_is_the_sum() -> None:
    found = merged("lora_lego", PAIR, weight=[0.5, 1.0], rank=5, reweight=False, output_scale=1)
    torch.testing.assert_close(found, true_sum(PAIR, [0.5, 1.0]), rtol=0, atol=1e-5)


def test_copies_give_the_adapter_back() -> None:
    one = adapter(3, 2, 5)
    torch.testing.assert_close(
        merged("lora_lego", [one] * 4, seed=3), delta(one), rtol=1e-5, atol=1e-5
    )


def test_the_order_of_ranks_does_not_matter() -> None:
    one, config = PAIR[1]
    turned = {
        "x.lora_A.weight": one["x.lora_A.weight"].flip(0),
        "x.lora_B.weight": one["x.lora_B.weight"].flip(1),
    }
    given = {"rank": 5, "reweight": False}
    expected = merged("lora_lego", PAIR, **given)
    torch.testing.assert_close(merged("lora_lego", [PAIR[0], (turned, config)], **given), expected)


def test_the_output_is_scaled_by_the_ranks() -> None:
    plain = merged("lora_lego", PAIR, rank=2, output_scale=1)
    torch.testing.assert_close(merged("lora_lego", PAIR, rank=2), plain * (2.5 / 2) ** 0.5)


def test_a_rank_beyond_all_units_is_padded() -> None:
    found = merged("lora_lego", PAIR, rank=8, reweight=False, output_scale=1)
    torch.testing.assert_close(found, true_sum(PAIR, [1, 1]), rtol=0, atol=1e-5)
