"""The loss of WUDI-Merging, Σ wᵢ ‖(Θ − τᵢ)τᵢᵀ‖²: a quadratic that two matrices hold.

Rows of a delta lie in the space of its layer's inputs, so the loss is what a merged delta does to
the inputs of one expert beside that expert's own. With P all √wᵢτᵢ one below the other, and E all
√wᵢ(τᵢ − Θ₀)τᵢᵀ side by side, its gradient at Θ₀ + X is 2(XPᵀP − EP), for any number of experts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch

from cermet.maths.descent import adam
from cermet.maths.eigen import eigen
from cermet.maths.lowrank import gram

__all__ = ["Pairs", "descended", "filtered", "own_inputs", "shares"]

Pairs = Iterable[tuple[float, "torch.Tensor", "torch.Tensor"]]
"""For each expert wᵢ, what it is to come to, and the matrix whose rows span its inputs."""


def own_inputs(models: torch.Tensor) -> Pairs:
    """The deltas themselves: [models, outputs, inputs]; wᵢ = 1/‖τᵢ‖², 0 of a delta of zeros."""
    return ((share, tau, tau) for share, tau in zip(shares(models), models, strict=True))


def shares(models: torch.Tensor) -> list[float]:
    """wᵢ = 1/‖τᵢ‖², and 0 of a delta of zeros: [models, outputs, inputs] -> [models]."""
    norms = [float(delta.double().square().sum()) for delta in models]
    return [1.0 / norm if norm > 0 else 0.0 for norm in norms]


def _stacked(start: torch.Tensor, pairs: Pairs) -> tuple[torch.Tensor, torch.Tensor]:
    """P [rows, inputs] and E [outputs, rows], float64."""
    below, beside = [], []
    for share, target, rows in pairs:
        below.append(rows.double().mul_(math.sqrt(share)))
        beside.append((target - start).double() @ below[-1].t())
    return torch.cat(below), torch.cat(beside, dim=1)


def _summed(start: torch.Tensor, pairs: Pairs) -> tuple[torch.Tensor, torch.Tensor]:
    """PᵀP [inputs, inputs] and EP [outputs, inputs], float64, expert by expert."""
    outputs, inputs = start.shape
    spread = torch.zeros(inputs, inputs, dtype=torch.float64, device=start.device)
    pull = torch.zeros(outputs, inputs, dtype=torch.float64, device=start.device)
    for share, target, rows in pairs:
        own = gram(rows.double().t())
        spread.add_(own, alpha=share)
        pull.addmm_((target - start).double(), own, alpha=share)
    return spread, pull


def descended(
    start: torch.Tensor, pairs: Pairs, rows: int, steps: int, rate: float
) -> torch.Tensor:
    """Θ₀ + X after some steps of Adam on the loss: float32 [outputs, inputs].

    `rows`: of P; where they are few, P is less than PᵀP.
    """
    if 2 * rows < start.shape[1]:
        below, beside = _stacked(start, pairs)
        thin, offset = below.float(), (beside @ below).float()

        def gradient(point: torch.Tensor) -> torch.Tensor:
            return torch.addmm(offset, point @ thin.t(), thin, beta=-2.0, alpha=2.0)
    else:
        spread, pull = _summed(start, pairs)
        matrix, offset = spread.float(), pull.float()

        def gradient(point: torch.Tensor) -> torch.Tensor:
            return torch.addmm(offset, point, matrix, beta=-2.0, alpha=2.0)

    return adam(gradient, torch.zeros_like(start), steps, rate).add_(start)


def filtered(
    start: torch.Tensor, pairs: Pairs, rows: int, response: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Θ₀ + E φ(PPᵀ) P = Θ₀ + EP φ(PᵀP), float64; `response`: φ of eigenvalues, largest first."""
    if rows < start.shape[1]:
        below, beside = _stacked(start, pairs)
        values, basis = eigen(gram(below))
        return start + ((beside @ basis) * response(values)) @ (basis.t() @ below)
    spread, pull = _summed(start, pairs)
    values, basis = eigen(spread)
    return start + ((pull @ basis) * response(values)) @ basis.t()
