from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import Rows, Sum, method
from cermet.core.types import Grain, Place, Role
from cermet.maths.combine import weighted_sum
from cermet.maths.sparsify import ranks
from cermet.maths.vectors import Vectors

_TINY = 1e-12  # a norm below this is taken for it


def _grain(*, place: Place | None = None) -> Grain:
    if place is None or not _by_vector(place=place):
        return "element"
    return "row" if place.role is Role.EMBEDDING else "column"


def _by_vector(*, place: Place) -> bool:
    return len(place.shape) == 2


def _by_element(*, place: Place) -> bool:
    return len(place.shape) != 2


def _moves(
    weights: Float[torch.Tensor, "models vectors length"],
) -> Float[torch.Tensor, "2 experts vectors"]:
    """How far the length and the direction of each vector have moved from the base's.

    1 − cos is half the squared distance of the directions, which small moves leave exact: of one
    that is a thousandth, 1 − cos itself would keep a digit.
    """
    lengths = torch.linalg.vector_norm(weights, dim=-1).clamp_min_(_TINY)
    apart = weights[1:] / lengths[1:, :, None]
    apart -= weights[0] / lengths[0, :, None]
    turned = apart.square_().sum(dim=-1) / 2.0
    return torch.stack(((lengths[1:] - lengths[0]).abs(), turned))


def _sizes(weights: Float[torch.Tensor, "models *block"]) -> Float[torch.Tensor, "experts *block"]:
    return (weights[1:] - weights[0]).abs_()


def _scores(values: torch.Tensor, mean: torch.Tensor, ratio: float, fixed: float) -> torch.Tensor:
    """Softmax over the experts [experts, *]; what is above its expert's mean gets a fixed score."""
    # torch's softmax adds up in an order that depends on how many elements there are
    scores = (values - values.amax(dim=0)).exp_()
    scores /= weighted_sum(scores, [1.0] * len(scores))
    return torch.where(values > ratio * mean, fixed, scores)


def _shares(
    *, moves: Vectors | None, size: torch.Tensor | None, place: Place, ratio: float,
    calibration: float,
) -> dict[str, Vectors | torch.Tensor | None]:  # fmt: skip
    if moves is None:
        assert size is not None
        return {"shares": None, "means": (size / max(1, torch.Size(place.shape).numel())).float()}
    count = moves.values.shape[-1]
    order = ranks(moves.values).div_(count)
    # The mean of ranks from 0: a sum would round, and decide by that on which side the middle is.
    mean = torch.full_like(order[..., :1], (count - 1) / 2).div_(count)
    scores = [_scores(o, m, ratio, calibration) for o, m in zip(order, mean, strict=True)]
    return {"shares": Vectors((scores[0] + scores[1]) / 2.0, moves.length), "means": None}


@method(
    on="weights",
    base="first",
    grain=_grain,
    source="arXiv:2408.03092",
    rounds=[Rows("moves", of=_moves, when=_by_vector), Sum("size", of=_sizes, when=_by_element)],
    fit=_shares,
    fitted=["shares", "means"],
    limits={"ratio": (0.0, None)},
    workspace=5.0,
    properties=("permutation",),
)
def widen(
    weights: Float[torch.Tensor, "models *block"],
    *,
    shares: Float[torch.Tensor, "experts vectors"] | None,
    means: Float[torch.Tensor, "experts"] | None,
    ratio: float = 1.0,
    calibration: float = 1.0,
) -> Float[torch.Tensor, "*block"]:
    """Weigh the columns of each expert by how far their length and direction have moved.

    Maths       for a matrix: ρ = rank of |‖W:c‖ − ‖W₀:c‖| over the columns c of an expert, from
                0 to 1, and the same of 1 − cos(W:c, W₀:c);  a = softmax of ρ over the experts, s
                where ρ > t · mean ρ;  θ = θ₀ + Σ (mean of both a)ᵢ τᵢ.  For all else |τ| itself
                stands in place of ρ, element by element
    Inputs      weights: the base, then the experts. Columns are those of the inputs of a linear
                map, and the tokens of an embedding
    Parameters  ratio: t. calibration: s, the score of what moved more than most
    Properties  model order does not matter; one expert gives that expert where s = 1; equal
                experts do not give that expert: columns count once, one and a half times or twice
    When        an instruct model and a model trained on far more data, whose deltas are far larger
    Example     >>> merge("widen", [0.0, 0.0], [[1, 3]])
                [1.0, 3.0]
    Departures  Matrices and embeddings are found by shape and role, in any architecture. A column
                of zeros has a length of 1e-12; the authors' code divides 0 by 0. 1 − cos is taken
                from the distance of the directions; in the authors' float32 small moves drown.
    """
    base, experts = weights[0], weights[1:]
    deltas = experts - base
    if shares is None:
        assert means is not None
        sizes = deltas.abs()
        found = means.to(base.device).view(-1, *[1] * base.ndim)
        scores = _scores(sizes, found, ratio, calibration)
    else:
        scores = shares[..., None]
    return base + weighted_sum(deltas.mul_(scores), [1.0] * len(deltas))
