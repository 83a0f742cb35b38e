"""The words that every room shares: the role of a tensor, its place, the grain of a method."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import numpy as np
import numpy.typing as npt

__all__ = ["Doubles", "Grain", "On", "Place", "Position", "Role"]

Doubles = npt.NDArray[np.float64]

Grain = Literal["element", "row", "column", "matrix", "tensor"]
"""The smallest piece on which a method's maths is exact.

A tensor of more than two dimensions is a stack of matrices, of its last two.
"""

On = Literal["weights", "deltas", "factors"]
"""What a method is given: weights as they are, experts minus their base, or LoRA's A and B."""

Position = Literal["before", "inside", "after"]
"""Where a tensor stands: before the stack of layers, inside a layer, or after the stack."""


class Role(StrEnum):
    """What a tensor does in its network."""

    Q = "q"
    K = "k"
    V = "v"
    O = "o"  # noqa: E741 - the field's name for the attention output projection
    QKV = "qkv"
    KV = "kv"
    GATE = "gate"
    UP = "up"
    DOWN = "down"
    GATE_UP = "gate_up"
    ROUTER = "router"
    NORM = "norm"
    EMBEDDING = "embedding"
    POSITION = "position"
    HEAD = "head"
    CONV = "conv"
    SSM = "ssm"
    SCALE = "scale"
    PROJECTOR = "projector"
    DENSE = "dense"
    BUFFER = "buffer"


@dataclass(frozen=True, slots=True)
class Place:
    """Where one tensor stands in its network, from names, shapes and config alone.

    Attributes
    ----------
    name: the tensor's name in the checkpoint.
    shape: its shape as stored.
    role: what it does; the bias of a projection has the projection's role and `bias` set.
    layer: index inside its stack of layers; None outside of any.
    layers: number of layers of its stack (of the main stack, for tensors outside of any).
    stack: the prefix of the stack, e.g. ``model.layers``; empty outside of any.
    position: before, inside or after the stack.
    expert: index of the expert in a mixture, None where there is none or all are fused.
    bias: True for an additive vector of a linear map or a norm.
    transposed: True where the matrix is stored as [in, out] (GPT-2's Conv1D).
    """

    name: str
    shape: tuple[int, ...]
    role: Role
    layer: int | None
    layers: int
    stack: str
    position: Position
    expert: int | None = None
    bias: bool = False
    transposed: bool = False

    @property
    def depth(self) -> float:
        """Relative depth: 0 before the layers and in the first, 1 in the last and after."""
        if self.layer is None:
            return 0.0 if self.position == "before" else 1.0
        return self.layer / (self.layers - 1) if self.layers > 1 else 1.0
