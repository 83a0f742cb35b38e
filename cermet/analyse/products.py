"""Several models, element by element: inner products of base and deltas, and their signs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch

__all__ = ["BYTES_EACH", "WINDOW", "Products", "products_of"]

WINDOW = 1 << 16
"""Elements of every model that are looked at together."""

BYTES_EACH = 64.0
"""Bytes of memory for each of them, roughly: weights and deltas in float64, products, signs."""


@dataclass(frozen=True)
class Products:
    """What has been seen of one tensor, or of several, in a base and its experts.

    Attributes
    ----------
    count: elements. broken: [1 + experts], those that are NaN or infinite in each model; where
        one is, no model counts as changed.
    gram: float64 [1 + experts, 1 + experts], inner products of the base and of the deltas.
    both: [experts, experts], elements that two experts changed (one, on the diagonal).
    against: [experts, experts], those that two changed in opposite directions.
    equal: [1 + experts, 1 + experts], whether two models hold the same.
    """

    count: int
    broken: torch.Tensor
    gram: torch.Tensor
    both: torch.Tensor
    against: torch.Tensor
    equal: torch.Tensor

    def __add__(self, other: Products) -> Products:
        """Of both together."""
        return Products(
            self.count + other.count,
            self.broken + other.broken,
            self.gram + other.gram,
            self.both + other.both,
            self.against + other.against,
            self.equal & other.equal,
        )


def products_of(blocks: Sequence[torch.Tensor]) -> Products:
    """The products of the same elements of a base and its experts: each [elements], as stored."""
    wide = torch.stack([block.to(torch.float64) for block in blocks])
    broken = torch.zeros(len(wide), dtype=torch.int64)
    if not bool(torch.isfinite(wide.sum())):  # a sum that overflows is looked at once more
        bad = ~torch.isfinite(wide)
        broken = bad.sum(1)
        wide[:, bad.any(0)] = 0.0
    wide[1:] -= wide[0]
    deltas = wide[1:]
    signs = deltas.sign().to(torch.float32)  # the counts are exact in float32: a window is short
    moved = signs.abs()
    both, agreement = moved @ moved.t(), signs @ signs.t()
    equal = torch.eye(len(wide), dtype=torch.bool)
    for i, j in itertools.combinations(range(len(deltas)), 2):
        equal[i + 1, j + 1] = equal[j + 1, i + 1] = torch.equal(deltas[i], deltas[j])
    equal[0, 1:] = equal[1:, 0] = both.diagonal() == 0
    return Products(
        count=wide.shape[1],
        broken=broken,
        gram=wide @ wide.t(),
        both=both.to(torch.int64),
        against=((both - agreement) / 2).to(torch.int64),
        equal=equal,
    )
