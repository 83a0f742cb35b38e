"""Shadow-FT: linear layers take the graft, all else stays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from cermet import merge_tensors

Merge = Callable[..., Any]

LINEAR = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
LINEAR += ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
OTHER = ["model.embed_tokens.weight", "model.layers.0.input_layernorm.weight", "lm_head.weight"]


def test_the_seven_projections_and_their_biases_move() -> None:
    names = [f"model.layers.0.{n}.{kind}" for n in LINEAR for kind in ("weight", "bias")]
    vectors = ("bias", "layernorm.weight")
    base = {n: torch.ones(2) if n.endswith(vectors) else torch.ones(2, 2) for n in names + OTHER}
    tuned = {n: value + 0.5 for n, value in base.items()}
    found = merge_tensors("shadow_ft", base, [tuned], weight=2)
    assert all((found[n] == 2.0).all() for n in names)
    assert all(torch.equal(found[n], base[n]) for n in OTHER)


def test_nothing_learnt_leaves_the_instruct_model(merge: Merge) -> None:
    assert merge("shadow_ft", [1.5, -2.0], [[1.5, -2.0]]) == [1.5, -2.0]
