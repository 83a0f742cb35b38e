from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from jaxtyping import Float

from cermet.core.registry import method
from cermet.core.types import Place
from cermet.maths.combine import weighted_sum
from cermet.maths.descent import momentum_response
from cermet.maths.lowrank import leading
from cermet.methods.interference import filtered, shares
from cermet.methods.matrices import Others, Vocabulary, kept_or_averaged, oriented, room, sides

_MOMENTUM = 0.9


def _pairs(models: torch.Tensor, rank: int) -> Iterator[tuple[float, torch.Tensor, torch.Tensor]]:
    """wᵢ, the leading part of each expert, and the leading directions of its inputs."""
    for share, tau in zip(shares(models), models, strict=True):
        found = leading(tau, rank)
        rows = found.right * found.values.float()[:, None]
        yield share, found.left @ rows, rows


@method(
    on="deltas",
    source="arXiv:2505.19892",
    grain="matrix",
    otherwise=kept_or_averaged,
    limits={"steps": (0.0, None), "rate": (0.0, None)},
    workspace=room(copies=12.0, short=14.0),
    properties=("permutation", "homogeneous", "odd", "equivariant"),
)
def optmerge_lora(
    deltas: Float[torch.Tensor, "models rows columns"],
    *,
    place: Place,
    steps: int = 300,
    rate: float = 1e-4,
    lambda_: float = 1.0,
    vocabulary: Vocabulary = "mean",
    others: Others = "mean",
) -> Float[torch.Tensor, "rows columns"]:
    """The mean of the deltas with a weak correction where they disturb each other's inputs.

    Maths       p = ⌊k/T⌋;  τ̂ᵢ = the best approximation of τᵢ of rank p;  Pᵢ = SᵢVᵢᵀ, its singular
                values and right vectors;  Θ₀ = mean τᵢ;  some steps of gradient descent with
                momentum 0.9 on Σ ‖(Θ − τ̂ᵢ)Pᵢᵀ‖² / ‖τᵢ‖²;  θ = θ₀ + λΘ;  other tensors: the mean.
                With P all √wᵢPᵢ one below the other and PPᵀ = QΛQᵀ, Θ = Θ₀ + E Qφ(Λ)Qᵀ P, where
                Eᵢ = √wᵢ(τ̂ᵢ − Θ₀)Pᵢᵀ and φ(λ) is where the steps take one number.
                Cost for a matrix of m × n: T times the p leading triplets, all eigenvectors of one
                matrix of k, three products of mnk; the steps cost nothing
    Inputs      deltas: expert minus base, a matrix at a time, oriented as in wudi
    Parameters  steps: of descent. rate: its learning rate. lambda: factor of the merged delta.
                vocabulary and others: as in wudi; the authors leave all others at the base
    Properties  model order does not matter; one expert comes back; equal experts of a rank up to p
                come back; twice the deltas, twice the result
    When        experts that were LoRA adapters (the authors' recipe for Qwen2-VL). With the
                default rate little but the few largest directions moves away from the mean
    Example     >>> merge("optmerge_lora", [[0.0, 0.0]] * 2, [[[2, 0], [0, 0]], [[0, 0], [0, 1]]])
                [[1.4473, 0.0], [0.0, 0.7236]]
    Departures  The steps are taken exactly, without iterating over matrices. The authors cast to
                the checkpoint's float16 first, where many of their updates round away.
    """
    models = oriented(deltas, place)
    start = weighted_sum(models, [1.0 / len(models)] * len(models))
    response = partial(momentum_response, steps=steps, rate=rate, momentum=_MOMENTUM)
    rows = min(models.shape[1:])  # at most
    moved = filtered(start, _pairs(models, min(sides(place)) // len(models)), rows, response)
    return oriented(moved.float().mul_(lambda_), place)
