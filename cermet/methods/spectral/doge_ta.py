from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import Kth, method
from cermet.core.types import Place
from cermet.maths.combine import weighted_sum
from cermet.maths.descent import adam
from cermet.maths.lowrank import leading
from cermet.maths.select import Cutoff, kept_mask
from cermet.maths.sparsify import magnitudes
from cermet.methods.matrices import Others, Vocabulary, covered, kept_or_averaged, oriented, room


def _matrices(*, place: Place, vocabulary: str) -> bool:
    return covered(place, vocabulary)


def _kept(*, density: float, numel: int, count: int) -> list[list[int]]:
    return [[min(numel, int(density * numel) + 1)]] * count


def _shares(models: torch.Tensor, eta: float) -> list[float]:
    """λᵢ = η/‖τᵢ‖, and 0 of a delta of zeros."""
    norms = [float(delta.double().square().sum().sqrt()) for delta in models]
    return [eta / norm if norm > 0 else 0.0 for norm in norms]


def _common(models: torch.Tensor, subspace: int) -> torch.Tensor:
    """Directions of outputs that all experts use: orthonormal [outputs, directions]."""
    side = min(models.shape[1:])
    own = [leading(delta, side // len(models)).left for delta in models]
    sides = torch.cat(own, dim=1)
    return leading(sides, min(side // subspace, sides.shape[1])).left


def _correction(
    models: torch.Tensor, shares: list[float], subspace: int, steps: int, rate: float
) -> torch.Tensor:
    """Δ after the steps: [models, outputs, inputs] -> [outputs, inputs]."""
    total, scale = weighted_sum(models, shares), sum(shares)
    gaps = [(tau - total).mul_(tau).sum(dim=1, keepdim=True) for tau in models]
    basis = _common(models, subspace)

    def gradient(point: torch.Tensor) -> torch.Tensor:
        slope = torch.zeros_like(point)
        for tau, gap in zip(models, gaps, strict=True):
            along = (tau * point).sum(dim=1, keepdim=True)
            slope.addcmul_(tau, along.mul_(scale).sub_(gap), value=2.0 * scale)
        return slope.sub_(basis @ (basis.t() @ slope))

    return adam(gradient, torch.zeros_like(total), steps, rate)


@method(
    on="deltas",
    source="tanganke/fusion_bench, fusion_bench/method/doge_ta",
    grain="matrix",
    rounds=[Kth("cutoff", of=magnitudes, rank=_kept, scope="model", only=_matrices)],
    otherwise=kept_or_averaged,
    limits={
        "eta": (0.0, None),
        "density": (0.0, 1.0),
        "subspace": (1.0, None),
        "steps": (0.0, None),
        "rate": (0.0, None),
    },
    workspace=room(each=2.5, copies=8.0, short=12.0),
    properties=("permutation", "odd"),
)
def doge_ta(
    deltas: Float[torch.Tensor, "models rows columns"],
    *,
    place: Place,
    cutoff: Cutoff,
    eta: float = 0.07,
    density: float = 0.3,
    subspace: int = 6,
    steps: int = 400,
    rate: float = 1e-4,
    lambda_: float = 1.0,
    vocabulary: Vocabulary = "mean",
    others: Others = "mean",
) -> Float[torch.Tensor, "rows columns"]:
    """Deltas of equal length and one correction of them all, trimmed and added up.

    Maths       λᵢ = η/‖τᵢ‖;  Uₛ: the first ⌊k/s⌋ left vectors of [U₁ ... U_T], the first ⌊k/T⌋ of
                every τᵢ;  some steps of Adam from Δ = 0, with gradients outside of Uₛ, on
                Σ ⟨τⱼ, τⱼ − Σ λᵢ(τᵢ + Δ)⟩² over experts j and outputs (⟨,⟩ over inputs);
                mᵢ = [|τᵢ| among the largest share d of all matrices of the model];
                θ = θ₀ + λ Σ λᵢmᵢ(τᵢ + Δ);  other tensors: θ₀ + λ · mean τᵢ.  Cost for a matrix of
                M × k: T times the ⌊k/T⌋ leading triplets, and 6T + 4k/s operations for each of its
                entries and steps
    Inputs      deltas: expert minus base, a matrix at a time, oriented as in wudi
    Parameters  eta: η, the length that each expert adds. density: d. subspace: s, so that a k/s of
                the directions are common and not corrected. steps: of Adam. rate: its learning
                rate. lambda: factor of the merged delta. vocabulary and others: as in wudi; the
                authors leave all others at the base
    Properties  model order does not matter to rounding; without steps and with density 1 every
                expert adds a delta of length η; one expert does not come back
    When        experts of different tasks whose deltas differ much in length. eta is in the unit
                of the weights, a length for each matrix: choose it beside those of the deltas
    Example     >>> merge("doge_ta", [[0.0, 0.0]] * 2, [[[2, 0], [0, 0]], [[0, 0], [0, 1]]],
                ...       eta=0.5, density=1.0)
                [[0.5299, 0.0], [0.0, 0.5296]]
    Departures  After FusionBench, to which the authors gave it; their page writes the loss with
                another sign than the code, which is followed. Where the experts' directions are
                fewer than k/s, no others are made up.
    """
    models = oriented(deltas, place)
    shares = _shares(models, eta)
    moved = oriented(_correction(models, shares, subspace, steps, rate), place)
    total, kept = torch.zeros_like(moved), cutoff.with_ties()
    for i, (delta, share) in enumerate(zip(deltas, shares, strict=True)):
        mask = kept_mask(delta.abs(), kept, i)
        total.add_(mask.mul_(delta + moved), alpha=lambda_ * share)
    return total
