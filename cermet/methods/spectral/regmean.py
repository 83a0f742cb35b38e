from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float

from cermet.core.registry import Need, PerModel, method
from cermet.core.types import Place, Role
from cermet.maths.combine import weighted_sum
from cermet.methods.matrices import covered, oriented

_RIDGE = 1e-10  # of the mean of the diagonal


def _shares(weight: PerModel) -> PerModel:
    total = sum(weight)
    return tuple(w / total for w in weight)


def _others(*, place: Place, weight: PerModel, vocabulary: str) -> PerModel | None:
    head = vocabulary == "head" and place.role is Role.HEAD
    return None if covered(place, "spectral" if head else "mean") else _shares(weight)


def _check(*, weight: PerModel) -> str | None:
    return None if sum(weight) > 0 else "the weights are all zero"


def _room(*, place: Place | None = None, count: int = 2) -> float:
    """10 matrices and 8 squares of the inputs, beside the models."""
    if place is None:
        return 18.0 / count
    rows, columns = (1, 1, *place.shape)[-2:]
    inputs = rows if place.transposed else columns
    return (10.0 + 8.0 * inputs * inputs / max(1, rows * columns)) / count


@method(
    on="weights",
    source="arXiv:2212.09849",
    base="none",
    grain="matrix",
    needs=[Need("gram", "mean of xxᵀ over the inputs x of the expert's layer", square=True)],
    otherwise=_others,
    check=_check,
    limits={"weight": (0.0, None), "gamma": (0.0, 1.0)},
    workspace=_room,
    properties=("permutation", "idempotent"),
)
def regmean(
    weights: Float[torch.Tensor, "models rows columns"],
    *,
    place: Place,
    gram: Float[torch.Tensor, "models inputs inputs"],
    weight: PerModel = (1.0,),
    gamma: float = 0.9,
    vocabulary: Literal["mean", "head"] = "mean",
) -> Float[torch.Tensor, "rows columns"]:
    """The linear map whose outputs are nearest to every expert's on that expert's own inputs.

    Maths       Gᵢ = mean of xxᵀ over the inputs of expert i, off the diagonal times γ;
                θ = (Σ cᵢWᵢGᵢ)(Σ cᵢGᵢ)⁻¹, cᵢ the weights over their sum;  other tensors: Σ cᵢθᵢ.
                Cost for a matrix of m × n: T + 1 products of mn², one Cholesky factor of n
    Inputs      weights: the experts' own, a matrix at a time; no base. Statistics: gram, Gᵢ as
                [inputs, inputs], of every matrix of a linear map. RegMean++ (arXiv:2508.03121) is
                this method on other statistics: Gᵢ of layer l over what expert i's layer l sees
                above the merged layers below it, inside of the layer its own. They are gathered
                layer by layer, each after the layers below are merged; the recipe that names the
                files of all layers then makes the same model in one run
    Parameters  weight: of each model. gamma: γ; 0.9 in the paper, 0.1 where it is unstable.
                vocabulary: whether the head is averaged, or is one more map with a Gram matrix
                (head); embeddings are averaged
    Properties  model order does not matter; equal experts come back; equal Gram matrices give the
                mean, and so do Gram matrices times one factor; at γ 0 every column is a mean
    When        experts of different tasks with some inputs of each at hand, labels not needed
    Example     >>> merge("regmean", None, [[[1.0, 2.0]], [[3.0, 4.0]]],
                ...       needs={"gram": [[[3.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]]]})
                [[1.5, 3.0]]
    Departures  Solved as the mean of the weights and a correction, in float64 and with 1e-10 of the
                mean diagonal added, so inputs that no expert has seen give the mean; the authors
                invert, which fails there.
    """
    shares, models = _shares(weight), oriented(weights, place)
    mean = weighted_sum(models, shares)
    total = torch.zeros(gram.shape[1:], dtype=torch.float64, device=gram.device)
    pull = torch.zeros(mean.shape, dtype=torch.float64, device=gram.device)
    for share, model, inputs in zip(shares, models, gram, strict=True):
        own = inputs.double().mul_(gamma)
        own.diagonal().copy_(inputs.diagonal())
        total.add_(own, alpha=share)
        pull.addmm_((model - mean).double(), own, alpha=share)
    ridge = _RIDGE * float(total.diagonal().mean())
    if not ridge > 0:  # no inputs at all
        return oriented(mean, place)
    total.diagonal().add_(ridge)
    moved = torch.cholesky_solve(pull.t(), torch.linalg.cholesky(total)).t()
    return oriented(moved.float().add_(mean), place)
