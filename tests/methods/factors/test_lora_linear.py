"""lora_linear: PEFT's addition of factors, which is not the sum."""

from __future__ import annotations

import pytest
import torch

import cermet
from tests.methods.factors.adapters import adapter, delta, merged


@pytest.mark.parametrize("count", [2, 3, 5])
def test_equal_adapters_at_one_by_their_number_give_as_many_times_their_delta(count: int) -> None:
    one = adapter(3, 0)
    found = merged("lora_linear", [one] * count, weight=1 / count)
    torch.testing.assert_close(found, count * delta(one), rtol=1e-5, atol=1e-5)
    right = merged("lora_linear", [one] * count, weight=1 / count**2)
    torch.testing.assert_close(right, delta(one), rtol=1e-5, atol=1e-5)


def test_a_negative_weight_turns_the_sign_once() -> None:
    one = adapter(3, 0, 6)
    torch.testing.assert_close(
        merged("lora_linear", [one], weight=-0.5), -0.5 * delta(one), rtol=1e-5, atol=1e-5
    )


def test_unequal_ranks_are_refused_with_what_takes_them() -> None:
    with pytest.raises(cermet.RecipeError, match=r"ranks are 2, 3.*lora_sum and lora_reduced"):
        merged("lora_linear", [adapter(2, 0), adapter(3, 1)], weight=1)
