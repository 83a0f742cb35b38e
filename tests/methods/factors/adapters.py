"""Small adapters for the tests of methods that merge them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import cermet

__all__ = ["Adapter", "adapter", "delta", "merged", "true_sum"]

Adapter = tuple[dict[str, Tensor], dict[str, Any]]


def adapter(rank: int, seed: int, alpha: float | None = None, **settings: Any) -> Adapter:
    """An adapter of one module, [10, 8]."""
    own = torch.Generator().manual_seed(seed)
    tensors = {
        "x.lora_A.weight": torch.randn(rank, 8, generator=own),
        "x.lora_B.weight": torch.randn(10, rank, generator=own),
    }
    given = rank if alpha is None else alpha
    return tensors, {"peft_type": "LORA", "r": rank, "lora_alpha": given, **settings}


def delta(one: Adapter) -> Tensor:
    """What an adapter adds to its module, in float64."""
    tensors, config = one
    root = config["r"] ** 0.5 if config.get("use_rslora") else config["r"]
    b, a = (tensors[f"x.lora_{n}.weight"].double() for n in "BA")
    return config["lora_alpha"] / root * b @ a


def merged(method: str, adapters: list[Adapter], **parameters: Any) -> Tensor:
    """The delta of the merged adapter."""
    return delta(cermet.merge_adapters(method, adapters, **parameters))


def true_sum(adapters: list[Adapter], weights: list[float]) -> Tensor:
    """The weighted sum of the deltas."""
    return sum((w * delta(a) for w, a in zip(weights, adapters, strict=True)), torch.zeros(10, 8))
