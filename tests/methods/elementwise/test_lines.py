"""LiNeS: the factor of every layer, and what stands outside of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from cermet import merge_tensors

Merge = Callable[..., Any]

OUTSIDE = ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")


def _factors(names: list[str], **parameters: Any) -> dict[str, float]:
    base = {name: torch.zeros(2, 2) for name in names}
    expert = {name: torch.ones(2, 2) for name in names}
    found = merge_tensors("lines", base, [expert], **parameters)
    return {name: float(value[0, 0]) for name, value in found.items()}


def test_the_factor_grows_with_depth() -> None:
    parts = ("mlp.up_proj.weight", "input_layernorm.weight")
    layers = [f"model.layers.{i}.{part}" for i in range(3) for part in parts]
    found = _factors([*OUTSIDE, *layers], alpha=0.2, beta=0.6)
    assert [found[n] for n in OUTSIDE] == pytest.approx([0.2] * 3)
    assert [found[n] for n in layers] == pytest.approx([0.2, 0.2, 0.5, 0.5, 0.8, 0.8])


def test_an_expert_of_a_mixture_is_not_a_layer() -> None:
    block = "model.layers.{}.mlp.experts.{}.up_proj.weight"
    names = [block.format(i, e) for i in range(21) for e in range(2)]
    found = _factors(names, alpha=0.0, beta=1.0)
    assert found["model.layers.20.mlp.experts.0.up_proj.weight"] == 1.0
    assert found["model.layers.10.mlp.experts.1.up_proj.weight"] == 0.5


def test_alpha_is_one_over_the_experts_by_default(merge: Merge) -> None:
    assert merge("lines", [0.0], [[3.0], [5.0]], beta=0.5) == [4.0]


def test_a_single_layer_has_both() -> None:
    names = ["model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight"]
    found = _factors(names, alpha=0.25, beta=0.5)
    assert list(found.values()) == [0.25, 0.75]


def test_without_growth_it_is_task_arithmetic(merge: Merge) -> None:
    experts = [[1, 2], [3, -1]]
    found = merge("lines", [1.0, 1.0], experts, alpha=0.4, beta=0, weight=[1, 2])
    assert found == merge("task_arithmetic", [1.0, 1.0], experts, weight=[0.4, 0.8])


def test_ends() -> None:
    """α = 0 leaves what stands outside, β = 1 gives the last layer whole; without both: nothing."""
    layers = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(4)]
    own = torch.Generator().manual_seed(0)
    base, expert = (
        {n: torch.randn(3, 3, generator=own) for n in (*OUTSIDE, *layers)} for _ in "be"
    )
    found = merge_tensors("lines", base, [expert], alpha=0.0, beta=1.0)
    assert all(torch.equal(found[n], base[n]) for n in (*OUTSIDE, layers[0]))
    torch.testing.assert_close(found[layers[-1]], expert[layers[-1]])
    nothing = merge_tensors("lines", base, [expert], alpha=0.0, beta=0.0)
    assert all(torch.equal(nothing[n], value) for n, value in base.items())
