"""What follows TIES is held to golden data (tests/golden/by_tensors.py)."""

from __future__ import annotations

import torch

import cermet
from tests.methods.forms import WEIGHTS, pool
from tests.methods.test_pipelines import NETWORK


def test_after_task_arithmetic_it_is_the_method() -> None:
    base, experts = pool(3, NETWORK)
    own = {"weight": WEIGHTS[:3]}
    lines = {"alpha": 0.3, "beta": 0.7}
    steps = [("task_arithmetic", own), ("lines", lines)]
    other = cermet.merge_tensors("lines", base, experts, **own, **lines)
    found = cermet.merge_tensors(steps, base, experts)
    torch.testing.assert_close(found, other, rtol=1e-6, atol=1e-6)


def test_before_a_merge_every_model_has_its_own_factors() -> None:
    base, experts = pool(2, NETWORK)
    lines = ("lines", {"alpha": [0.5, 2.0], "beta": [0.0, 1.0]})
    found = cermet.merge_tensors([lines, ("task_arithmetic", {"weight": 1})], base, experts)
    name = "model.layers.1.mlp.up_proj.weight"
    deltas = [e[name] - base[name] for e in experts]
    torch.testing.assert_close(found[name], base[name] + 0.5 * deltas[0] + 3.0 * deltas[1])
