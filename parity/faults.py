"""Where mergekit 0.1.5 is known to be wrong, and what is therefore not compared.

The one table of exceptions. Each is recognised from the inputs, and everything that it
does not cover is compared. Of the faults in PEER.md, several are gone in 0.1.5 as
published (breadcrumbs at gamma 0, TIES below one entry, shapes skipped); those
recipes are compared like all others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import torch

from parity.inputs import Group

__all__ = ["FAULTS", "Fault", "fault_of_dtype", "fault_of_values"]


@dataclass(frozen=True, slots=True)
class Fault:
    """One exception: for which methods, when, and why.

    values: whether the numbers of the tensor are excused; if not, only its dtype is.
    """

    name: str
    methods: frozenset[str]
    values: bool
    applies: Callable[[Group], bool]
    reason: str


def _small_norms(group: Group) -> bool:
    """Whether a product of norms that the cosine is divided by is below the peer's floor."""
    deltas = group.deltas
    rows = deltas.flatten(1)[:, None]
    if group.once["filter_wise"] and deltas.ndim > 2:
        rows = deltas
    norms = rows.norm(dim=-1)
    return any(
        bool((norms[a] * norms[b] < 1e-6).any()) for a, b in combinations(range(len(norms)), 2)
    )


def _small_energy(group: Group) -> bool:
    """Whether the mean squares of the selected deltas may sum to less than the peer's floor."""
    share = float(group.once["select_topk"])
    deltas = group.deltas.flatten(1)
    if share < 1:
        variance = deltas.var(dim=0, unbiased=False)
        count = int(torch.count_nonzero(variance) * share)
        chosen = torch.topk(variance, count).indices
        deltas = torch.zeros_like(deltas).index_copy_(1, chosen, deltas[:, chosen])
    return float(deltas.square().mean(dim=1).sum()) < 1.01e-6


def _no_divergence(group: Group) -> bool:
    """Whether the divergences between the rows are no more than rounding in float32."""
    assert group.base is not None
    chance = torch.softmax(torch.stack((group.base, group.experts[0])).double(), dim=-1) + 1e-8
    divergence = (chance[1] * torch.log(chance[1] / chance[0])).sum(dim=-1)
    return float(divergence.abs().median()) < 2e-5


FAULTS: tuple[Fault, ...] = (
    Fault(
        "float32 file",
        frozenset({"arcee_fusion", "ramplus_tl"}),
        False,
        lambda _: True,
        "a float32 mask or factor promotes the result, so bfloat16 models become a float32 file",
    ),
    Fault(
        "floor of norms",
        frozenset({"model_stock"}),
        True,
        _small_norms,
        "a product of norms below 1e-6 is raised to 1e-6, so tensors that moved little stay put",
    ),
    Fault(
        "floor of energy",
        frozenset({"sce"}),
        True,
        _small_energy,
        "mean squares that sum to less than 1e-6 are replaced by equal weights",
    ),
    Fault(
        "noise as importance",
        frozenset({"arcee_fusion"}),
        True,
        _no_divergence,
        "the divergence of rows that moved little is all rounding, so the mask is arbitrary",
    ),
)


def fault_of_values(group: Group) -> Fault | None:
    """The fault that excuses the numbers of this tensor, or None."""
    return _first(group, values=True)


def fault_of_dtype(group: Group) -> Fault | None:
    """The fault that excuses the dtype of this tensor, or None."""
    return _first(group, values=False)


def _first(group: Group, *, values: bool) -> Fault | None:
    for fault in FAULTS:
        if fault.values == values and group.method in fault.methods and fault.applies(group):
            return fault
    return None
