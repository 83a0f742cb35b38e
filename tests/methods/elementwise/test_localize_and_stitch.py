"""Localize-and-Stitch without data: what is kept of the whole model, and what is averaged."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch

from cermet import merge_tensors

Merge = Callable[..., Any]

ALL: dict[str, Any] = {"layers_only": False}


def test_disjoint_masks_give_each_owner_its_value(merge: Merge) -> None:
    """Not twice the delta, as in the language script of the authors."""
    experts = [[5, 1, 1, 1], [1, 1, 1, 7]]
    assert merge("localize_and_stitch", [1.0] * 4, experts, density=0.5, **ALL) == [5, 1, 1, 7]


def test_where_masks_meet_the_deltas_are_averaged(merge: Merge) -> None:
    experts = [[4, 2, 0], [8, 3, 1]]
    assert merge("localize_and_stitch", [0.0] * 3, experts, density=1, **ALL) == [6.0, 2.5, 0.0]


def test_the_comparison_is_strict(merge: Merge) -> None:
    found = merge("localize_and_stitch", [0.0] * 4, [[2, 2, 2, 3]], density=0.5, **ALL)
    assert found == [0, 0, 0, 3]


def test_what_stands_outside_of_the_layers_stays_and_is_not_counted() -> None:
    layers = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(2)]
    names = ["model.embed_tokens.weight", *layers, "model.norm.weight"]
    base = {name: torch.zeros(2, 2) for name in names}
    expert = {name: torch.full((2, 2), 9.0) for name in names}
    expert[layers[0]] = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    expert[layers[1]] = torch.tensor([[0.0, 0.0], [0.0, 5.0]])
    found = merge_tensors("localize_and_stitch", base, [expert], density=0.5)
    assert not found[names[0]].any()
    assert not found[names[-1]].any()
    # the fourth largest of the eight inside is 2; those above it are kept
    assert found[layers[0]].tolist() == [[0.0, 0.0], [3.0, 4.0]]
    assert found[layers[1]].tolist() == [[0.0, 0.0], [0.0, 5.0]]


def test_a_model_without_layers_stays_at_its_base(merge: Merge) -> None:
    assert merge("localize_and_stitch", [1.0, 2.0], [[5, 6]], density=0.5) == [1.0, 2.0]


def test_masks_are_nested_and_what_none_covers_is_the_base() -> None:
    own = torch.Generator().manual_seed(0)
    base, expert = ({"w": torch.randn(20, 20, generator=own)} for _ in "be")
    moved = [
        merge_tensors("localize_and_stitch", base, [expert], density=d, **ALL)["w"] != base["w"]
        for d in (0.05, 0.2, 0.6, 1.0)
    ]
    assert [int(m.sum()) for m in moved] == [19, 79, 239, 399]  # the comparison is strict
    for small, large in pairwise(moved):
        assert bool((small <= large).all())
