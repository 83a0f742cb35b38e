"""One adapter at weight 1 comes back as itself, by every method that merges adapters."""

from __future__ import annotations

import pytest
import torch

import cermet
from cermet.core.registry import all_factor_methods, all_methods
from tests.methods.factors.adapters import adapter, delta, merged

DELTAS = (
    "dare_linear", "dare_ties", "knots_ties", "opcm", "optmerge", "optmerge_lora", "stf", "swudi",
    "task_arithmetic", "ties", "tsv_m", "wudi",
)  # fmt: skip
"""Methods whose defaults leave a single delta as it is."""


@pytest.mark.parametrize("name", sorted(all_factor_methods()))
def test_of_factors(name: str) -> None:
    one = adapter(3, 7, 5)
    needed = {p.name for p in all_factor_methods()[name].parameters.values() if p.required}
    given = {"weight": 1.0, "density": 0.5}
    found = merged(name, [one], **{k: v for k, v in given.items() if k in needed})
    torch.testing.assert_close(found, delta(one), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", [n for n in sorted(all_factor_methods()) if n.endswith("_svd")])
def test_peft_does_not_truncate_a_single_one(name: str) -> None:
    one = adapter(3, 7, 5)
    given = {} if name == "lora_svd" else {"density": 0.5}
    found = merged(name, [one], weight=1, rank=1, **given)
    torch.testing.assert_close(found, delta(one), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", DELTAS)
def test_of_deltas(name: str) -> None:
    one = adapter(3, 7, 5, use_rslora=True)
    given = {"weight": 1.0} if "weight" in all_methods()[name].parameters else {}
    found = merged(name, [one], **given)
    torch.testing.assert_close(found, delta(one), rtol=0, atol=1e-5)


def test_a_method_on_adapters_is_refused_on_tensors() -> None:
    with pytest.raises(cermet.MethodError, match="merge_adapters"):
        cermet.merge_tensors("lora_sum", None, [{"x": torch.ones(2)}], weight=1)
