from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import method
from cermet.maths.lowrank import leading
from cermet.methods.matrices import Vocabulary, averaged_if_short, room
from cermet.methods.whitening import whitened


def _looks(delta: torch.Tensor, outlier: float, epsilon: float) -> tuple[float, float]:
    """The sum of a delta's outliers, and the share of its entries that count as zero."""
    sizes = delta.abs().double()
    mean, spread = float(sizes.mean()), float(sizes.std(correction=0))
    empty = float((sizes < epsilon * mean).double().mean()) if mean > 0 else 1.0
    return float(sizes[sizes > mean + outlier * spread].sum()), empty


@method(
    on="deltas",
    source="arXiv:2502.06876",
    experimental="the equations of its weights and ranks are in no text that we could read, so "
    "this is a reading of its abstract and reproduces no number of it.",
    grain="matrix",
    otherwise=averaged_if_short,
    limits={"outlier": (0.0, None), "epsilon": (0.0, None), "gamma": (0.0, None)},
    workspace=room(copies=9.0, short=12.0),
    properties=("permutation", "homogeneous", "odd"),
)
def r_tsvm(
    deltas: Float[torch.Tensor, "models rows columns"],
    *,
    outlier: float = 3.0,
    epsilon: float = 0.01,
    gamma: float = 1.0,
    lambda_: float = 1.0,
    vocabulary: Vocabulary = "mean",
) -> Float[torch.Tensor, "rows columns"]:
    """TSV-Merge with experts weighed by their outliers, and lower ranks for sparse deltas.

    Maths       μᵢ, sᵢ: mean and standard deviation of |τᵢ|;  oᵢ = Σ of the |τᵢ| > μᵢ + fsᵢ;
                ωᵢ = oᵢ over the mean of all o;  Ωᵢ = share of the |τᵢ| < εμᵢ;
                pᵢ = ⌊(1 − Ωᵢ)^γ k/T⌋, at least 1;  then tsv_m with pᵢ triplets of each expert and
                their values times ωᵢ;  other tensors: θ₀ + λ · mean τᵢ.  Cost: as tsv_m, and a few
                passes over the entries
    Inputs      deltas: expert minus base, a matrix at a time
    Parameters  outlier: f. epsilon: ε, a share of the mean. gamma: γ, how much rank sparsity
                costs. lambda and vocabulary: as in tsv_m
    Properties  model order does not matter; where no delta has outliers (or f is large) all ω are
                1, and with γ = 0 it is tsv_m, bit for bit; twice the deltas, twice the result
    When        to try beside tsv_m on aligned language models, where a few large entries carry
                what an expert has learnt
    Example     >>> merge("r_tsvm", [[0.0, 0.0]] * 2, [[[2, 0], [0, 0]], [[0, 0], [0, 1]]],
                ...       outlier=1)
                [[2.6667, 0.0], [0.0, 0.6667]]
    Departures  Known: tsv_m, weights from outliers of heavy tails, ranks that depend on sparsity.
                Assumed: every formula of the weights and ranks, and all three numbers.
    """
    looks = [_looks(delta, outlier, epsilon) for delta in deltas]
    total, count = sum(large for large, _ in looks), len(deltas)
    weight = [count * large / total if total else 1.0 for large, _ in looks]
    most = min(deltas.shape[1:]) * (1 / count)
    ranks = [max(1, int(most * (1.0 - empty) ** gamma)) for _, empty in looks]
    parts = [leading(delta, rank) for delta, rank in zip(deltas, ranks, strict=True)]
    return whitened(parts, weight, lambda_)
