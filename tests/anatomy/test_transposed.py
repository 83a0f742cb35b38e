"""Matrices stored as [in, out]: GPT-2's, and fused experts that multiply from the right."""

from __future__ import annotations

from typing import Any

import pytest

from cermet.anatomy import survey

Shapes = dict[str, tuple[int, ...]]


def _transposed(shapes: Shapes, **config: Any) -> set[str]:
    return {name for name, place in survey(shapes, config).places.items() if place.transposed}


def _layer(name: str, weight: tuple[int, ...], bias: int | None = None) -> Shapes:
    """A matrix in two layers, with its bias if it has one."""
    found: Shapes = {}
    for i in range(2):
        found[f"h.{i}.{name}.weight"] = weight
        if bias is not None:
            found[f"h.{i}.{name}.bias"] = (bias,)
    return found


def _both(name: str) -> set[str]:
    return {f"h.{i}.{name}.weight" for i in range(2)}


_QKV = _layer("attn.c_attn", (4, 12), 12)
_SQUARE = _layer("attn.c_proj", (4, 4), 4)


def test_a_bias_as_long_as_the_second_side_says_transposed() -> None:
    assert _transposed(_QKV) == _both("attn.c_attn")
    assert _transposed(_layer("attn.c_attn", (12, 4), 12)) == set()


def test_a_square_matrix_follows_the_others_of_its_stack() -> None:
    assert _transposed(_QKV | _SQUARE) == _both("attn.c_attn") | _both("attn.c_proj")
    assert _transposed(_layer("attn.c_attn", (12, 4), 12) | _SQUARE) == set()


def test_square_matrices_alone_follow_the_type_of_the_model() -> None:
    assert _transposed(_SQUARE, model_type="gpt2") == _both("attn.c_proj")
    assert _transposed(_SQUARE, model_type="gpt_bigcode") == set()
    assert _transposed(_SQUARE) == set()


def test_a_square_matrix_of_another_name_is_not_gpt2s() -> None:
    assert _transposed(_layer("attn.q_proj", (4, 4), 4), model_type="gpt2") == set()


def test_without_a_bias_nothing_is_transposed() -> None:
    shapes = _layer("attn.c_attn", (4, 12)) | _layer("mlp.c_fc", (4, 4))
    assert _transposed(shapes) == set()


def test_stacks_do_not_vote_for_each_other() -> None:
    """A GPT-2 beside a tower with square matrices: the tower's stay as they are."""
    tower = {
        "vision.layers.0.attn.proj.weight": (4, 4),
        "vision.layers.0.attn.proj.bias": (4,),
        "vision.layers.0.mlp.fc1.weight": (8, 4),
        "vision.layers.0.mlp.fc1.bias": (8,),
    }
    assert _transposed(_QKV | _SQUARE | tower) == _both("attn.c_attn") | _both("attn.c_proj")


def test_embeddings_norms_biases_and_heads_are_never_transposed() -> None:
    others: Shapes = {
        "wte.weight": (9, 4),
        "ln_f.weight": (4,),
        "ln_f.bias": (4,),
        "lm_head.weight": (9, 4),
        "score.weight": (4, 4),
        "score.bias": (4,),
    }
    assert _transposed(_QKV | others, model_type="gpt2") == _both("attn.c_attn")


def test_a_mask_that_is_called_bias_is_no_vote() -> None:
    masks: Shapes = {f"h.{i}.attn.bias": (1, 1, 12, 12) for i in range(2)}
    assert _transposed(_QKV | masks) == _both("attn.c_attn")


def _experts(gate_up: tuple[int, ...], down: tuple[int, ...]) -> Shapes:
    return {
        "model.layers.0.mlp.experts.gate_up_proj": gate_up,
        "model.layers.0.mlp.experts.down_proj": down,
    }


_FUSED = set(_experts((), ()))


@pytest.mark.parametrize(
    ("gate_up", "down", "expected"),
    [
        ((3, 4, 12), (3, 6, 4), _FUSED),  # gpt-oss, Llama 4
        ((3, 12, 4), (3, 4, 6), set()),  # Mixtral, Qwen3-MoE
        ((3, 4, 8), (3, 4, 4), _FUSED),  # gpt-oss 20b: down is square
        ((3, 8, 4), (3, 4, 4), set()),
        ((3, 4, 4), (3, 2, 4), _FUSED),  # gate and up together are square
        ((3, 4, 4), (3, 4, 2), set()),
        ((3, 4, 4), (3, 4, 4), set()),  # nothing tells
    ],
)
def test_fused_experts_are_judged_by_the_hidden_size(
    gate_up: tuple[int, ...], down: tuple[int, ...], expected: set[str]
) -> None:
    shapes = _experts(gate_up, down)
    assert _transposed(shapes, hidden_size=4) == expected
    assert _transposed(shapes, text_config={"hidden_size": 4}) == expected
    assert _transposed(shapes) == set()
