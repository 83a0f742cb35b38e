from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float

from cermet.core.registry import method
from cermet.core.types import Place
from cermet.maths.combine import weighted_sum
from cermet.maths.lowrank import leading
from cermet.methods.interference import descended, shares
from cermet.methods.matrices import Others, Vocabulary, kept_or_averaged, oriented, room


def _pairs(models: torch.Tensor) -> Iterator[tuple[float, torch.Tensor, torch.Tensor]]:
    """wᵢ, the target of each expert around the mean, and the leading directions of its inputs."""
    count, rank = len(models), min(models.shape[1:]) // len(models)
    mean = weighted_sum(models, [1.0 / count] * count)
    for share, tau in zip(shares(models), models, strict=True):
        own, inputs = leading(tau - mean, rank), leading(tau, rank)
        target = (own.left * own.values.float()) @ own.right
        yield share, target.add_(mean), inputs.right * inputs.values.float()[:, None]


@method(
    on="deltas",
    source="arXiv:2505.19892",
    grain="matrix",
    otherwise=kept_or_averaged,
    limits={"steps": (0.0, None), "rate": (0.0, None)},
    workspace=room(copies=20.0, short=12.0),
    properties=("permutation", "odd"),
)
def optmerge(
    deltas: Float[torch.Tensor, "models rows columns"],
    *,
    place: Place,
    steps: int = 300,
    rate: float = 1e-5,
    lambda_: float = 1.0,
    vocabulary: Vocabulary = "mean",
    others: Others = "mean",
) -> Float[torch.Tensor, "rows columns"]:
    """WUDI-Merging without the noise of the deltas: for models that were tuned as a whole.

    Maths       τ̄ = mean τᵢ;  τ̂ᵢ = τ̄ + the best approximation of τᵢ − τ̄ of rank p = ⌊k/T⌋;
                Pᵢ = SᵢVᵢᵀ, the first p singular values and right vectors of τᵢ;  Θ₀ = Σ τᵢ;
                some steps of Adam on Σ ‖(Θ − τ̂ᵢ)Pᵢᵀ‖² / ‖τᵢ‖²;  θ = θ₀ + λΘ;  other tensors: the
                mean.  Cost for a matrix of m × n: as wudi, and 2T times the p leading triplets
    Inputs      deltas: expert minus base, a matrix at a time, oriented as in wudi
    Parameters  steps, rate, lambda, vocabulary and others: as in wudi; the authors' script for
                InternVL takes lambda 0.1 and leaves all others at the base
    Properties  model order does not matter to rounding; one expert comes back
    When        models of several skills or senses, each tuned in all its weights. For experts that
                were LoRA adapters: optmerge_lora
    Example     >>> merge("optmerge", [[0.0, 0.0]] * 2, [[[2, 0], [0, 0]], [[0, 0], [0, 1]]])
                [[2.0, 0.0], [0.0, 0.997]]
    Departures  The gradient is the authors', by two matrices; their projector is padded with zeros
                to the size of the delta, and decomposed in full.
    """
    models = oriented(deltas, place)
    start = weighted_sum(models, [1.0] * len(models))
    rows = min(models.shape[1:])  # at most
    moved = descended(start, _pairs(models), rows, steps, rate)
    return oriented(moved.mul_(lambda_), place)
