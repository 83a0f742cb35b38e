"""lora_cat: PEFT's sum, with its error under rsLoRA."""

from __future__ import annotations

import pytest
import torch

from tests.methods.factors.adapters import adapter, merged, true_sum


@pytest.mark.parametrize("first", [False, True])
def test_it_is_too_large_where_the_first_adapter_uses_rslora(first: bool) -> None:
    adapters = [adapter(2, 0, 3, use_rslora=first), adapter(4, 1, 5, use_rslora=not first)]
    expected = true_sum(adapters, [0.5, 1.5]) * (6**0.5 if first else 1.0)
    found = merged("lora_cat", adapters, weight=[0.5, 1.5])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
