from __future__ import annotations

import math

import torch
from jaxtyping import Float

from cermet.core.registry import method
from cermet.maths.descent import conjugate
from cermet.maths.lowrank import leading
from cermet.methods.matrices import Vocabulary, averaged, room

_STEPS = 300  # of conjugate gradients, at most


@method(
    on="deltas",
    source="Superpose Task-specific Features for Model Merging, EMNLP 2025",
    experimental="its equations are not checked against the paper or the authors' code, neither "
    "of which was at hand.",
    grain="matrix",
    otherwise=averaged,
    limits={"density": (0.0, 1.0)},
    workspace=room(each=5.0, copies=9.0, short=12.0),
    properties=("permutation", "homogeneous", "odd"),
)
def stf(
    deltas: Float[torch.Tensor, "models rows columns"],
    *,
    density: float = 1.0,
    lambda_: float = 1.0,
    vocabulary: Vocabulary = "mean",
) -> Float[torch.Tensor, "rows columns"]:
    """Superposed singular features: each goes on giving its own output, at its own strength.

    Maths       uⱼσⱼvⱼᵀ: the first p = ⌈dk⌉ triplets of every τᵢ, k the shorter side; τ = Σ aⱼuⱼvⱼᵀ
                such that uⱼᵀτvⱼ = σⱼ for all Tp of them: Ha = σ with H = UᵀU ∘ VᵀV;  θ = θ₀ + λτ;
                other tensors: θ₀ + λ · mean τᵢ.  Cost for a matrix of M × k: T Gram matrices of Mk²
                and their eigenvectors, and 2T products of pMk for each step of conjugate gradients,
                some 10 where the experts differ; H is never formed
    Inputs      deltas: expert minus base, a matrix at a time
    Parameters  density: d, share of the triplets of each expert that count. lambda: factor of the
                merged delta. vocabulary: as in tsv_m
    Properties  model order does not matter; one expert comes back, and so do equal ones; experts
                that move different inputs or outputs are added; twice the deltas, twice the result
    When        experts of different tasks, whose shared directions are to count once
    Example     >>> merge("stf", [[0.0, 0.0]] * 2, [[[2, 0], [0, 0]], [[2, 0], [0, 1]]])
                [[2.0, 0.0], [0.0, 1.0]]
    Departures  Where features depend on each other, a is the shortest of all solutions, without the
                ridge that a decomposition of H needs. The system is solved to 1e-7, in 300 steps at
                most. The paper is said to add the deltas of biases and embeddings; here they are
                averaged, as in tsv_m.
    """
    rank = math.ceil(density * min(deltas.shape[1:]))
    parts = [leading(delta, rank) for delta in deltas]
    sides = [(part.left.double(), part.right.double()) for part in parts]
    goal = torch.stack([part.values for part in parts])
    del parts

    def superposed(strengths: torch.Tensor) -> torch.Tensor:
        total = torch.zeros(deltas.shape[1:], dtype=torch.float64, device=deltas.device)
        for (left, right), own in zip(sides, strengths, strict=True):
            total.addmm_(left * own, right)
        return total

    def product(strengths: torch.Tensor) -> torch.Tensor:
        total = superposed(strengths)
        return torch.stack([(left.t() @ total).mul_(right).sum(dim=1) for left, right in sides])

    return superposed(conjugate(product, goal, _STEPS)).mul_(lambda_).float()
