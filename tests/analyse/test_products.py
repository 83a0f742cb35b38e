"""Products and signs of deltas, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cermet.analyse.products import products_of
from cermet.analyse.relations import group, pairs_of, seen_from, weights_gram
from cermet.core.types import Place, Role

BASE = torch.tensor([1.0, 0.0, 2.0, 0.0])
ONE = torch.tensor([2.0, 1.0, 2.0, -1.0])  # moves by  1  1  0 -1
TWO = torch.tensor([3.0, -1.0, 2.0, 0.0])  # moves by  2 -1  0  0


def test_the_gram_matrix_is_of_base_and_deltas() -> None:
    found = products_of([BASE, ONE, TWO])
    assert found.gram.tolist() == [[5.0, 1.0, 2.0], [1.0, 3.0, 1.0], [2.0, 1.0, 5.0]]
    models = torch.stack([BASE, ONE, TWO]).double()
    assert weights_gram(found.gram).tolist() == (models @ models.t()).tolist()


def test_changes_and_signs_are_counted() -> None:
    found = products_of([BASE, ONE, TWO])
    assert found.both.tolist() == [[3, 2], [2, 2]]
    assert found.against.tolist() == [[0, 1], [1, 0]]
    numbers = group("all", [found, found])
    assert numbers.conflict == 0.5
    assert numbers.changed == (0.75, 0.5)
    assert numbers.cosines == (pytest.approx(1 / math.sqrt(15)),)
    assert numbers.base_norm == pytest.approx(math.sqrt(10))
    assert numbers.relative[0] == pytest.approx(math.sqrt(3 / 5))


def test_equal_models_are_told_by_every_element() -> None:
    found = products_of([BASE, ONE, ONE.clone(), BASE.clone()])
    assert found.equal.int().tolist() == [[1, 0, 0, 1], [0, 1, 1, 0], [0, 1, 1, 0], [1, 0, 0, 1]]
    later = found + products_of([BASE, ONE, TWO, BASE])
    assert later.equal.int().tolist() == [[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 1]]


def test_what_is_no_number_is_left_out_and_counted() -> None:
    broken = ONE.clone()
    broken[0] = math.nan
    found = products_of([BASE, broken, TWO])
    assert found.broken.tolist() == [0, 1, 0]
    assert found.gram.tolist() == [[4.0, 0.0, 0.0], [0.0, 2.0, -1.0], [0.0, -1.0, 1.0]]
    both = torch.tensor([math.inf, 1.0])
    assert products_of([both, both]).broken.tolist() == [1, 1]


def test_nothing_changed_has_no_cosine_and_no_conflict() -> None:
    numbers = group("all", [products_of([BASE, BASE, ONE])])
    assert (numbers.norms[0], numbers.cosines, numbers.conflict) == (0.0, (None,), None)


def test_small_deltas_of_bfloat16_are_exact() -> None:
    base = torch.full((3,), 256.0, dtype=torch.bfloat16)
    near = base.clone()
    near[1] += 2.0
    assert products_of([base, near]).gram[1, 1].item() == 4.0


def _pairs(*models: Tensor) -> list[str]:
    place = Place("x", (2, 2), Role.Q, None, 0, "", "inside")
    found = {"x": products_of(models)}
    names = [str(i) for i in range(len(models))]
    return [pair.relation for pair in pairs_of(names, {"x": place}, found)]


def test_relations_follow_from_the_cosine() -> None:
    x, y = torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0, 0.0])
    assert _pairs(x, x.clone()) == ["equal"]
    assert _pairs(x, x + 0.1 * y) == ["same ancestor"]
    assert _pairs(x, x + y) == ["far apart"]
    assert _pairs(x, y) == ["unrelated"]
    assert _pairs(x, -x) == ["unrelated"]


def test_experts_that_are_both_related_to_the_base_are_related() -> None:
    x, y, z = torch.eye(4)[:3]
    assert _pairs(x, x + 3 * y, x + 3 * z) == ["far apart"] * 3
    assert _pairs(x, y, z) == ["unrelated"] * 3


def test_the_base_is_where_deltas_are_orthogonal() -> None:
    x, y, z = torch.eye(4)[:3]
    gram = products_of([x, x + y, x + z]).gram
    assert seen_from(gram, 0) == pytest.approx((0.0, 1.0))
    assert seen_from(gram, 1) == pytest.approx((1 / math.sqrt(2), 1 / math.sqrt(2)))
    siblings = products_of([x + y, x + z, x + torch.eye(4)[3]]).gram
    for i in range(3):
        assert seen_from(siblings, i) == pytest.approx((0.5, 1.0))
    assert seen_from(products_of([x, x, y]).gram, 0) is None
