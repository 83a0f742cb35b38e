"""lora_sum: the weighted sum of the deltas, whatever the ranks and scales."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

import cermet
from tests.methods.factors.adapters import adapter, merged, true_sum


@given(
    st.lists(
        st.tuples(st.integers(1, 6), st.floats(0.1, 20), st.booleans(), st.floats(-2, 2)),
        min_size=1,
        max_size=4,
    )
)
def test_it_is_the_weighted_sum(given: list[tuple[int, float, bool, float]]) -> None:
    adapters = [adapter(r, i, a, use_rslora=s) for i, (r, a, s, _) in enumerate(given)]
    weights = [w for *_, w in given]
    expected = true_sum(adapters, weights)
    found = merged("lora_sum", adapters, weight=weights)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6 * float(expected.abs().max() + 1))


def test_the_ranks_add_up() -> None:
    _, config = cermet.merge_adapters("lora_sum", [adapter(2, 0), adapter(5, 1)], weight=1)
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (7, 7, False)
