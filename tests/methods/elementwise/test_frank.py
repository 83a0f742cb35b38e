"""FRANK: one pair of weights for each layer, by how far its tensors have moved together."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import cermet
from cermet import merge_tensors
from tests.methods.forms import same_bits

SHAPES = {
    "model.embed_tokens.weight": (9, 4),
    **{f"model.layers.{i}.self_attn.q_proj.weight": (4, 4) for i in range(3)},
    **{f"model.layers.{i}.input_layernorm.weight": (4,) for i in range(3)},
    "model.norm.weight": (4,),
    "lm_head.weight": (9, 4),
}
Model = dict[str, Tensor]


def _models() -> tuple[Model, Model, Model]:
    """A base, an expert that moved less with depth, and one that moved more."""
    own = torch.Generator().manual_seed(0)
    found: list[Model] = []
    for growth in (0.0, -1.0, 1.0):
        model = {}
        for name, shape in SHAPES.items():
            layer = int(name.split(".")[2]) if ".layers." in name else 1
            model[name] = torch.randn(shape, generator=own) * 2 ** (growth * layer)
        found.append(model)
    base, first, second = found
    return base, *({n: v + base[n] for n, v in m.items()} for m in (first, second))


def _energies(base: Model, expert: Model, names: list[str]) -> float:
    return sum(float((expert[n] - base[n]).double().square().sum()) for n in names)


@pytest.mark.parametrize("decay", [None, 0.0, 0.7, 500.0])
def test_the_weights_of_a_layer_are_those_of_the_formula(decay: float | None) -> None:
    base, *experts = _models()
    found = merge_tensors("frank", base, experts, decay=decay)
    fall = [math.exp(-(decay or 0.0) * j) for j in range(3)]
    for layer in range(3):
        names = [n for n in SHAPES if f".layers.{layer}." in n]
        assert len(names) == 2
        prior = (
            (1.0, 1.0) if decay is None else (fall[layer] / sum(fall), 1 - fall[layer] / sum(fall))
        )
        sizes = [w * _energies(base, e, names) for w, e in zip(prior, experts, strict=True)]
        shares = [s / sum(sizes) for s in sizes]
        for n in names:
            deltas = [e[n] - base[n] for e in experts]
            expected = base[n] + shares[0] * deltas[0] + shares[1] * deltas[1]
            torch.testing.assert_close(found[n], expected, rtol=0, atol=2e-6)


def test_the_vocabulary_is_the_first_experts_and_the_last_norm_stands_alone() -> None:
    base, first, second = _models()
    found = merge_tensors("frank", base, [first, second], decay=0.7)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        torch.testing.assert_close(found[name], first[name], rtol=0, atol=1e-6)
    name = "model.norm.weight"
    sizes = [_energies(base, e, [name]) for e in (first, second)]
    expected = (sizes[0] * first[name] + sizes[1] * second[name]) / sum(sizes)
    torch.testing.assert_close(found[name], expected, rtol=0, atol=2e-6)


def test_an_expert_that_has_not_moved_counts_for_nothing() -> None:
    base, first, _ = _models()
    torch.testing.assert_close(
        merge_tensors("frank", base, [first, base]), first, rtol=0, atol=1e-6
    )
    assert same_bits(merge_tensors("frank", base, [base, base]), base)


def test_it_wants_two_experts() -> None:
    base, first, second = _models()
    with pytest.raises(cermet.MethodError, match="does not take 3 experts"):
        merge_tensors("frank", base, [first, second, second])
