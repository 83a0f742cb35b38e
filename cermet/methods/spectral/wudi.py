from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import method
from cermet.core.types import Place
from cermet.maths.combine import weighted_sum
from cermet.methods.interference import descended, own_inputs
from cermet.methods.matrices import Others, Vocabulary, kept_or_averaged, oriented, room


@method(
    on="deltas",
    source="arXiv:2503.08099",
    grain="matrix",
    otherwise=kept_or_averaged,
    limits={"steps": (0.0, None), "rate": (0.0, None)},
    workspace=room(copies=9.0, inputs=6.0, reach=2),
    properties=("permutation", "odd"),
)
def wudi(
    deltas: Float[torch.Tensor, "models rows columns"],
    *,
    place: Place,
    steps: int = 300,
    rate: float = 1e-5,
    lambda_: float = 1.0,
    vocabulary: Vocabulary = "mean",
    others: Others = "mean",
) -> Float[torch.Tensor, "rows columns"]:
    """The sum of the deltas, moved by gradient so that it disturbs no expert's own inputs.

    Maths       Θ₀ = Σ τᵢ;  some steps of Adam on Σ ‖(Θ − τᵢ)τᵢᵀ‖² / ‖τᵢ‖²;  θ = θ₀ + λΘ;
                other tensors: θ₀ + λ · mean τᵢ.  Cost for a matrix of m × n: 2T products of mn²,
                and one of mn² for each step, where the loss as written takes 2T of m²n
    Inputs      deltas: expert minus base, a matrix at a time; rows are taken for outputs, or
                columns where the matrix is stored as [inputs, outputs]
    Parameters  steps: of Adam. rate: its learning rate. lambda: factor of the merged delta.
                vocabulary: whether embeddings and heads are averaged, or are matrices like the
                rest. others: what is no matrix is averaged, or stays the base
    Properties  model order does not matter to rounding; one expert comes back; without steps it is
                the sum
    When        experts of different tasks without data to tune on. The steps are few on purpose:
                the minimum of the loss is a worse model. rate is in the unit of the weights, so
                models of another scale want another rate, or swudi
    Example     >>> merge("wudi", [[0.0, 0.0]] * 2, [[[2, 0], [0, 0]], [[0, 0], [0, 1]]])
                [[2.0, 0.0], [0.0, 1.0]]
    Departures  The gradient is the authors', by two matrices instead of 2T products at every step.
                Their scripts leave all other tensors at the base, which others: base does.
    """
    models = oriented(deltas, place)
    start = weighted_sum(models, [1.0] * len(models))
    rows = len(models) * models.shape[1]
    moved = descended(start, own_inputs(models), rows, steps, rate)
    return oriented(moved.mul_(lambda_), place)
