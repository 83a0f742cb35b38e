"""TIES with a slack: what the slack may change, and what it may not."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch

from cermet import merge_tensors

Merge = Callable[..., Any]


def _models() -> list[dict[str, torch.Tensor]]:
    """A base, an expert with large deltas, and one with small ones."""
    own = torch.Generator().manual_seed(3)
    base = {name: torch.randn(40, 6, generator=own) for name in "ab"}
    return [base, *({n: v + s * torch.randn(40, 6, generator=own) for n, v in base.items()}
                    for s in (1.0, 0.2))]  # fmt: skip


def _merged(slack: float, density: float = 0.6) -> dict[str, torch.Tensor]:
    base, *experts = _models()
    return merge_tensors("ties_sv", base, experts, slack=[0, slack], density=density)


def test_no_slack_is_the_official_ties() -> None:
    base, *experts = _models()
    found = merge_tensors("ties_official", base, experts, density=0.6)
    assert all(torch.equal(v, found[n]) for n, v in _merged(0).items())


def test_a_larger_slack_never_costs_its_expert_an_entry() -> None:
    base, _, small = _models()

    def won(slack: float) -> torch.Tensor:
        found = _merged(slack, density=1)
        return torch.stack([(found[n] - base[n]) * (small[n] - base[n]) > 0 for n in "ab"])

    wins = [won(slack) for slack in (0.0, 0.1, 0.5, 2.0, 50.0)]
    assert all(bool((one <= other).all()) for one, other in pairwise(wins))
    assert int(wins[0].sum()) < int(wins[2].sum())
    assert bool(wins[-1].all())


def test_entries_on_which_all_agree_do_not_change() -> None:
    base, large, small = _models()
    plain, slack = _merged(0, density=1), _merged(0.7, density=1)
    for n in "ab":
        agree = (large[n] - base[n]) * (small[n] - base[n]) > 0
        assert torch.equal(plain[n][agree], slack[n][agree])
        assert not torch.equal(plain[n], slack[n])


def test_the_slack_counts_in_the_majority_too(merge: Merge) -> None:
    """The second entry cancels; without slack the model has more minus signs, with it more plus."""
    experts = [[-3, 2, -3], [2, -2, 2]]
    assert merge("ties_sv", [0.0] * 3, experts, density=1) == [-3.0, -2.0, -3.0]
    assert merge("ties_sv", [0.0] * 3, experts, density=1, slack=[0, 1.5]) == [2.0, -2.0, 2.0]


def test_trimmed_entries_have_no_vote(merge: Merge) -> None:
    """One entry of each is kept; a slack does not bring the others back."""
    experts = [[4, 0.5, 1], [0.5, -3, 0.5]]
    found = merge("ties_sv", [0.0] * 3, experts, density=0.01, slack=[0, 9])
    assert found == [4.0, -3.0, 0.0]
