"""What methods on the factors of adapters share: ranks of results, and PEFT's operators.

PEFT's `add_weighted_adapter` applies one of a few operators to tensors and their weights, either
to the A and the B of the adapters apart, or to their deltas. The operators stand here under what
they do; the files in `factors/` combine them under PEFT's names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch

from cermet.core.errors import MethodError
from cermet.core.registry import method
from cermet.maths.factors import Factors, padded, product, truncated_product
from cermet.maths.lowrank import truncated
from cermet.maths.sparsify import row_top

__all__ = [
    "Majority",
    "Operator",
    "Uniform",
    "added",
    "apart",
    "at_random",
    "equal_ranks",
    "given_rank",
    "largest",
    "on_deltas",
    "peft_by_entry",
    "peft_on_deltas",
    "peft_rank",
    "peft_scale",
    "sum_of_ranks",
    "voted",
]

Uniform = Callable[[int, str, tuple[int, ...]], "torch.Tensor"]
"""Draws in [0, 1): number of the adapter among those given, what they are for, shape."""

Operator = Callable[[Sequence["torch.Tensor"], Sequence[float], str], "torch.Tensor"]
"""Tensors of one shape, their weights, and what they are (A, B or delta) -> one tensor."""

Majority = Literal["total", "frequency"]
"""Whether signs are elected by the sum of the values or of their signs."""


def sum_of_ranks(*, ranks: Sequence[int]) -> int:
    """Rank of a result that holds the factors of all."""
    return sum(ranks)


def equal_ranks(*, ranks: Sequence[int]) -> int:
    """Rank of a result that is made entry by entry; MethodError where the ranks differ."""
    if len(set(ranks)) > 1:
        raise MethodError(
            f"the ranks are {', '.join(map(str, ranks))}, but it adds factors entry by entry; "
            "lora_sum and lora_reduced take any"
        )
    return ranks[0]


def given_rank(
    *, ranks: Sequence[int], largest: int, count: int, shape: tuple[int, int], rank: int | None
) -> int:
    """The rank that is asked for, or the largest of all adapters; of one adapter its own."""
    if rank is None and count == 1:
        return ranks[0]
    return min(rank or largest, *shape)


def peft_rank(
    *, ranks: Sequence[int], largest: int, count: int, shape: tuple[int, int], rank: int | None
) -> int:
    """As `given_rank`; of one adapter its own even so, since PEFT then does not truncate."""
    if count == 1:
        return ranks[0]
    return given_rank(ranks=ranks, largest=largest, count=count, shape=shape, rank=rank)


_peft = partial(method, on="factors", source="PEFT, add_weighted_adapter")

peft_by_entry = partial(_peft, rank=equal_ranks)
"""Declares what PEFT does to the A and the B of adapters apart."""

peft_on_deltas = partial(_peft, rank=peft_rank, forms_deltas=True)
"""Declares what PEFT does to the deltas of adapters, truncated to a rank."""


def peft_scale(rank: int, rslora: bool) -> float:
    """The scale of PEFT's result: alpha = r, and rsLoRA as in its first adapter."""
    return math.sqrt(rank) if rslora else 1.0


def apart(
    factors: Sequence[Factors], weight: Sequence[float], operator: Operator, *, count: int,
    rslora: bool,
) -> Factors:  # fmt: skip
    """An operator on A and on B, each weighted by √|w s|; the sign goes to A.

    Of one adapter it is the plain sum, as in PEFT.
    """
    whole = [w * f.scale for f, w in zip(factors, weight, strict=True)]
    roots = [math.sqrt(abs(w)) for w in whole]
    chosen = added if count == 1 else operator
    signed = [math.copysign(root, w) for root, w in zip(roots, whole, strict=True)]
    a = chosen([f.a for f in factors], signed, "A")
    b = chosen([f.b for f in factors], roots, "B")
    return Factors(a, b, peft_scale(a.shape[0], rslora))


def on_deltas(
    factors: Sequence[Factors], weight: Sequence[float], operator: Operator, *,
    rank: int | None, count: int, rslora: bool,
) -> Factors:  # fmt: skip
    """An operator on the deltas, and the best approximation of a rank; of one adapter `apart`."""
    if count == 1:
        return apart(factors, weight, operator, count=count, rslora=rslora)
    assert rank is not None  # the engine has asked peft_rank
    merged = operator([product(f) for f in factors], weight, "delta")
    left, right = truncated(merged, rank)
    whole = float(torch.linalg.norm(merged))
    lost = float(torch.linalg.norm(merged.addmm_(left, right, alpha=-1.0)))
    own = truncated_product(left, right, rank)  # the thin ones again, as B = UΣ and A = Vᵀ
    found = padded(own.u * own.values, own.v, rank, merged.dtype, lost / whole if whole else 0.0)
    return Factors(found.a, found.b, peft_scale(rank, rslora), found.lost)


def added(tensors: Sequence[torch.Tensor], weights: Sequence[float], what: str) -> torch.Tensor:
    """Σ wᵢxᵢ."""
    return torch.stack([t * w for t, w in zip(tensors, weights, strict=True)]).sum(dim=0)


def voted(majority: Majority) -> Operator:
    """Σ wᵢxᵢ over those that have the elected sign, divided by their number.

    The sign is that of Σ xᵢ (total) or of Σ sgn xᵢ (frequency), without the weights; 0 is +.
    """

    def operator(
        tensors: Sequence[torch.Tensor], weights: Sequence[float], what: str
    ) -> torch.Tensor:
        stack = torch.stack(list(tensors))
        signs = stack.sign()
        total = (signs if majority == "frequency" else stack).sum(dim=0)
        agree = signs == torch.where(total >= 0, 1.0, -1.0)
        factor = torch.tensor(weights, dtype=stack.dtype, device=stack.device)
        scaled = stack * factor.view(-1, *[1] * (stack.ndim - 1)) * agree
        return scaled.sum(dim=0) / agree.sum(dim=0).clamp_min(1)

    return operator


def _largest_kept(tensor: torch.Tensor, density: float) -> torch.Tensor:
    """The ⌊dn⌋ largest magnitudes of a tensor, the first of equal ones; the others are zero."""
    if density >= 1:
        return tensor
    mask = row_top(tensor.abs().reshape(1, -1), int(density * tensor.numel()))
    return tensor * mask.view_as(tensor)


def _kept_at_random(tensor: torch.Tensor, density: float, draws: torch.Tensor) -> torch.Tensor:
    """Each entry with a probability, divided by it; the others are zero."""
    if density >= 1:
        return tensor
    mask = (draws < density).to(tensor.dtype)
    return tensor * mask / density if density > 0 else tensor * mask


def largest(density: float, then: Operator) -> Operator:
    """The operator on the ⌊dn⌋ largest magnitudes of each tensor."""

    def operator(
        tensors: Sequence[torch.Tensor], weights: Sequence[float], what: str
    ) -> torch.Tensor:
        return then([_largest_kept(t, density) for t in tensors], weights, what)

    return operator


def at_random(density: float, noise: Uniform, then: Operator) -> Operator:
    """The operator on entries of each tensor that are kept with a probability."""

    def operator(
        tensors: Sequence[torch.Tensor], weights: Sequence[float], what: str
    ) -> torch.Tensor:
        kept = [
            _kept_at_random(t, density, noise(i, what, tuple(t.shape)))
            for i, t in enumerate(tensors)
        ]
        return then(kept, weights, what)

    return operator
