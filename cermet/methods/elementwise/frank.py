from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import PerModel, method
from cermet.core.types import Place, Role
from cermet.maths.combine import weighted_sum
from cermet.methods.matrices import tables
from cermet.methods.whole import layer_energy


def _kept(*, place: Place) -> PerModel | None:
    """The first expert's vocabulary and projector."""
    return (1.0, 0.0) if tables(place) or place.role is Role.PROJECTOR else None


def _prior(place: Place, decay: float | None) -> PerModel:
    """w of both experts in this layer."""
    if decay is None or place.layer is None:
        return (1.0, 1.0)
    slope = -decay * torch.arange(place.layers, dtype=torch.float64)
    first = float(slope.softmax(dim=0)[place.layer])
    return (first, 1.0 - first)


def _shares(*, energy: torch.Tensor, place: Place, decay: float | None) -> dict[str, PerModel]:
    first, second = (w * e for w, e in zip(_prior(place, decay), energy.tolist(), strict=True))
    total = first + second
    return {"share": (first / total, second / total) if total else (0.5, 0.5)}


def _coefficients(*, share: PerModel) -> PerModel:
    return share


@method(
    on="deltas",
    source="arXiv:2505.16151",
    models=(2, 2),
    rounds=[layer_energy],
    fit=_shares,
    fitted=["share"],
    coefficients=_coefficients,
    otherwise=_kept,
    workspace=1.0,
    properties=("idempotent", "homogeneous", "odd"),
)
def frank(
    deltas: Float[torch.Tensor, "models *block"], *, share: PerModel, decay: float | None = None
) -> Float[torch.Tensor, "*block"]:
    """A model that sees and one that reasons, weighed in each layer by how far they have moved.

    Maths       ‖τ‖² over all tensors of a layer ℓ;  λₜ = wₜ‖τₜ‖² / (w₁‖τ₁‖² + w₂‖τ₂‖²);
                w₁ = exp(−αℓ) / Σⱼ exp(−αj) over all layers j,  w₂ = 1 − w₁, or both 1 without α;
                θ = θ₀ + λ₁τ₁ + λ₂τ₂;  embeddings, heads and projectors: the first expert's
                Cost for a matrix of m × n: 4mn operations for norms, 4mn for the sum
    Inputs      deltas: expert minus base, first of the model that sees, then of the one that
                reasons. What stands outside of the layers (the last norm) is one more layer,
                without a prior
    Parameters  decay: α, how fast the attention of text to images falls from layer to layer: minus
                the slope of its logarithm, measured on the model that sees
    Properties  the two weights of a layer sum to 1; deltas that are all larger by one factor have
                the same weights; an expert that has not moved counts for nothing
    When        a vision-language model is to reason like a text model with the same ancestor. The
                priors favour the reasoner: w₁ is one over the number of layers on average
    Example     >>> merge("frank", [0.0, 0.0], [[1, 2], [3, 4]])
                [2.6667, 3.6667]
    Departures  There is no code of the authors to compare with. An index in the printed equation
                with priors is taken for a slip. The paper does not say what becomes of embeddings
                and head; the first expert owns the tokens of its images.
    """
    return weighted_sum(deltas, _coefficients(share=share))
