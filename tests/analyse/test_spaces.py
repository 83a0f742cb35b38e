"""Which matrices are looked at, and what is found where the subspaces are known."""

from __future__ import annotations

import pytest
import torch

from cermet.analyse.spaces import Space, chosen, spaces_of
from cermet.anatomy import survey
from cermet.checkpoints.reader import MemoryCheckpoint
from cermet.core.errors import BudgetError
from tests.recipes.pools import llama

NAME = "model.layers.0.self_attn.q_proj.weight"


def _space(*deltas: torch.Tensor, threads: int = 1, memory: int = 10**8) -> Space:
    base = llama(0)[NAME]
    models = [base, *(base + delta for delta in deltas)]
    checkpoints = [MemoryCheckpoint(str(i), {NAME: m}) for i, m in enumerate(models)]
    places = survey({NAME: (16, 16)}, {}).places
    twins = {NAME: (NAME,) * len(models)}
    (found,) = spaces_of(checkpoints, twins, places, [NAME], memory=memory, threads=threads)
    return found


def _product(rows: slice, columns: slice) -> torch.Tensor:
    """A delta of rank two with outputs in some rows and inputs in some columns."""
    delta = torch.zeros(16, 16)
    delta[rows, columns] = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    return delta


def test_subspaces_that_are_known() -> None:
    one, same, other = (
        _product(slice(0, 2), slice(0, 2)),
        _product(slice(0, 2), slice(8, 10)),
        _product(slice(4, 6), slice(0, 2)),
    )
    found = _space(one, same, other)
    assert found.directions == 4
    assert found.rank == (2, 2, 2)
    assert found.energy == pytest.approx((1.0, 1.0, 1.0), abs=1e-6)
    assert found.left == pytest.approx((1.0, 0.0, 0.0), abs=1e-6)  # pairs 12, 13, 23
    assert found.right == pytest.approx((0.0, 1.0, 0.0), abs=1e-6)
    assert (found.chance_left, found.chance_right) == (0.25, 0.25)


def test_an_expert_that_did_not_change_has_no_subspace() -> None:
    found = _space(torch.zeros(16, 16), _product(slice(0, 2), slice(0, 2)))
    assert found.energy[0] is None
    assert found.rank == (None, 2)
    assert (found.left, found.right) == ((None,), (None,))


def test_what_is_no_number_has_no_subspace() -> None:
    assert _space(torch.full((16, 16), float("nan"))).energy == (None,)


def test_a_matrix_that_does_not_fit_is_refused_by_name() -> None:
    with pytest.raises(BudgetError, match=r"The subspaces of 'model\.layers\.0.*--memory"):
        _space(_product(slice(0, 2), slice(0, 2)), memory=100)


def test_roles_and_depths_come_in_turn() -> None:
    shapes = {name: tuple(t.shape) for name, t in llama(0, layers=8).items()}
    anatomy = survey(shapes, {})
    names = chosen(anatomy.places, list(shapes), 14)
    places = [anatomy.places[n] for n in names]
    assert len(names) == len(set(names)) == 14
    assert sorted(str(p.role) for p in places) == sorted([*"qkvo", "gate", "up", "down"] * 2)
    depths = [p.layer for p in places if p.layer is not None]
    assert depths == sorted(depths)
    assert (depths[0], depths[-1]) == (0, 7)


def test_more_matrices_than_there_are_is_all_of_them() -> None:
    shapes = {name: tuple(t.shape) for name, t in llama(0, layers=1).items()}
    anatomy = survey(shapes, {})
    assert len(chosen(anatomy.places, list(shapes), 100)) == 7
    assert chosen(anatomy.places, list(shapes), 0) == []
    assert chosen(anatomy.places, ["model.norm.weight"], 3) == []
