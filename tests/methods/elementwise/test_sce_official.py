"""SCE of FuseChat: where it parts from the paper's form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Merge = Callable[..., Any]


def test_one_expert_comes_back_where_the_papers_form_gives_the_pivot(merge: Merge) -> None:
    assert merge("sce_official", [1.0, 1.0], [[3, 5]], select_topk=0.5) == [3.0, 5.0]
    assert merge("sce", [1.0, 1.0], [[3, 5]], select_topk=0.5) == [1.0, 1.0]


def test_elements_that_are_not_selected_move_too(merge: Merge) -> None:
    experts = [[2, 4, 1], [2, 0, 3]]
    assert merge("sce_official", [0.0] * 3, experts, select_topk=0.5) == [2.0, 4.0, 1.0]


def test_with_everything_selected_both_agree(merge: Merge) -> None:
    experts = [[-4, 4, 1], [6, 2, 1]]
    found = merge("sce_official", [0.0] * 3, experts, select_topk=1)
    assert found == merge("sce", [0.0] * 3, experts, select_topk=1)
