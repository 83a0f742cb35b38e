"""Layer swapping: whose layer is whose."""

from __future__ import annotations

from typing import Any

import torch

from cermet import merge_tensors

LAYERS = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(8)]
OUTSIDE = ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")


def _found(**parameters: Any) -> tuple[list[float], list[float]]:
    """The layers and what stands outside, of a task's expert of 1 and a language's of 3."""
    models = [{n: torch.full((2, 2), v) for n in (*OUTSIDE, *LAYERS)} for v in (1.0, 3.0)]
    merged = merge_tensors("layer_swapping", None, models, **parameters)
    layers, outside = ([float(merged[n][0, 0]) for n in names] for names in (LAYERS, OUTSIDE))
    return layers, outside


def test_outer_layers_are_the_languages() -> None:
    layers, outside = _found(bottom=2, top=1, transition=1)
    assert layers == [3, 3, 2, 1, 1, 1, 2, 3]
    assert outside == [3, 3, 3]


def test_ends() -> None:
    assert _found(bottom=0, top=0, transition=0)[0] == [1] * 8
    assert _found(bottom=8, top=0, transition=0)[0] == [3] * 8
    assert _found(bottom=5, top=5, transition=1)[0] == [3] * 8


def test_every_bit_is_one_models() -> None:
    own = torch.Generator().manual_seed(0)
    names = (*OUTSIDE, *LAYERS)
    models = [{n: torch.randn(4, 4, generator=own).bfloat16() for n in names} for _ in range(2)]
    found = merge_tensors("layer_swapping", None, models, bottom=3, top=2, transition=0)
    for i, name in enumerate(LAYERS):
        assert torch.equal(found[name], models[int(not 3 <= i < 6)][name])


def test_the_models_exchanged_give_the_other_layers() -> None:
    """What one takes from the first, the other takes from the second: together they are both."""
    own = torch.Generator().manual_seed(0)
    models = [{n: torch.randn(3, 3, generator=own) for n in LAYERS} for _ in range(2)]
    one, other = (
        merge_tensors("layer_swapping", None, pair, bottom=2, top=3, transition=1)
        for pair in (models, models[::-1])
    )
    for name in LAYERS:
        both = models[0][name] + models[1][name]
        torch.testing.assert_close(one[name] + other[name], both)
