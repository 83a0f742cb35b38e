"""SCE: what is selected, what each expert weighs, what is erased."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cermet import MethodError

Merge = Callable[..., Any]


def test_worked_by_hand(merge: Merge) -> None:
    """The variances are 0, 4, 0.25; one of the two that are not 0 is selected."""
    experts = [[2, 4, 1], [2, 0, 2]]
    assert merge("sce", [0.0] * 3, experts, select_topk=0.5) == [0.0, 4.0, 0.0]


def test_experts_weigh_by_their_energy(merge: Merge) -> None:
    """9 + 1 against 9 + 81: weights 0.1 and 0.9; the second place has one sign only."""
    assert merge("sce", [0.0, 0.0], [[3, 1], [3, 9]]) == [3.0, 8.2]


def test_the_minority_is_erased_after_the_weights(merge: Merge) -> None:
    """-4 loses to 6, but its energy counted: weights 16 / 56 and 40 / 56."""
    assert merge("sce", [0.0, 0.0], [[-4, 0], [6, 2]]) == [6.0, 2.0]
    assert merge("sce", [0.0, 0.0], [[-4, 4], [6, 2]]) == [6.0, 2.8889]


def test_energy_is_that_of_the_selected_places(merge: Merge) -> None:
    """The first place alone is selected: (64 x 8 + 4 x 2) / 68, whatever the third holds."""
    experts = [[8, 1, 100], [2, 3, 100]]
    assert merge("sce", [0.0] * 3, experts, select_topk=0.5) == [7.6471, 0.0, 0.0]


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.19, 0), (0.2, 1), (0.99, 4), (1.0, 5)])
def test_how_many_are_selected(merge: Merge, share: float, count: int) -> None:
    """The share of the five places where the experts differ, and of no others."""
    experts = [[1, 2, 3, 4, 5, 7, 7], [0, 0, 0, 0, 0, 7, 7]]
    found = merge("sce", [0.0] * 7, experts, select_topk=share)
    assert sum(v != 0 for v in found[:5]) == count
    assert found[5:] == ([7.0, 7.0] if share == 1 else [0.0, 0.0])


def test_of_equal_variances_the_first_is_selected(merge: Merge) -> None:
    assert merge("sce", [0.0] * 4, [[2, -2, 2, -2], [0] * 4], select_topk=0.5) == [2, -2, 0, 0]


def test_weights_of_small_deltas_are_not_uniform(merge: Merge) -> None:
    """Energies of 1e-8 are those of ordinary fine-tuning; mergekit takes them for none."""
    base = [0.0, 0.0]
    found = merge("sce", base, [[0.001, 0.0], [0.003, 0.0]])
    assert found == [0.0028, 0.0]  # (1 x 0.001 + 9 x 0.003) / 10


def test_a_share_above_1_is_refused(merge: Merge) -> None:
    with pytest.raises(MethodError, match="select_topk"):
        merge("sce", [0.0], [[1.0]], select_topk=1.2)
