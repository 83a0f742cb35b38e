"""Numbers that belong to the rows (or columns) of a tensor."""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["Vectors"]


@dataclass(frozen=True, slots=True)
class Vectors:
    """Values [..., vectors], one for each row (or column) of `length` elements of a tensor."""

    values: torch.Tensor
    length: int

    def between(self, start: int, stop: int) -> torch.Tensor:
        """The values of the vectors that make up the elements [start, stop)."""
        return self.values[..., start // self.length : stop // self.length]
