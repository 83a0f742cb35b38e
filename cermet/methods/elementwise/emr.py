from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float

from cermet.core.registry import Bits, Numbers, PerModel, Sum, method
from cermet.core.types import Place
from cermet.maths.combine import elected, largest_agreeing, weighted_sum


def _unified(deltas: Float[torch.Tensor, "models *block"]) -> Float[torch.Tensor, "*block"]:
    """γε: the elected sign times the largest delta that has it; the deltas become mᵢ|τᵢ|."""
    sign = elected(weighted_sum(deltas, [1.0] * len(deltas)), at_zero=-1.0)
    return largest_agreeing(deltas, sign)


def _sizes(
    deltas: Float[torch.Tensor, "models *block"], *, place: Place, by_tensor: bool
) -> Float[torch.Tensor, "2 models *block"]:
    """|τᵢ| and |mᵢτ|, over the number of entries of the tensor where each tensor counts alike."""
    both = torch.empty(2, *deltas.shape, dtype=deltas.dtype, device=deltas.device)
    torch.abs(deltas, out=both[0])
    unified = _unified(deltas)
    torch.mul(torch.sign(deltas, out=both[1]), unified.abs_(), out=both[1])
    return both.div_(float(math.prod(place.shape))) if by_tensor else both


def _rescalers(*, size: torch.Tensor) -> dict[str, PerModel]:
    """λᵢ; 1 where nothing of an expert is left to rescale."""
    own, left = size.tolist()
    return {"rescaler": tuple(o / u if u else 1.0 for o, u in zip(own, left, strict=True))}


def _restored(
    merged: Float[torch.Tensor, "*block"],
    *,
    base: Float[torch.Tensor, "*block"],
    mask: Float[torch.Tensor, "*block"],
    rescaler: Float[torch.Tensor, ""],
) -> Float[torch.Tensor, "*block"]:
    return (merged - base).mul_(mask).mul_(rescaler).add_(base)


@method(
    on="deltas",
    source="arXiv:2405.17461",
    rounds=[Sum("size", of=_sizes, scope="model")],
    fit=_rescalers,
    fitted=["rescaler"],
    workspace=5.6,
    parts=[Bits("mask"), Numbers("rescaler", exact=True)],
    restore=_restored,
    properties=("permutation", "homogeneous"),
)
def emr(
    deltas: Float[torch.Tensor, "models *block"],
    *,
    rescaler: PerModel,
    by_tensor: bool = True,
) -> tuple[Float[torch.Tensor, "*block"], Mapping[str, torch.Tensor]]:
    """Elect, mask and rescale: one unified delta, a bit for each weight and expert, and a number.

    Maths       γ = sgn Σ τᵢ;  ε = the largest |τᵢ| of those with sign γ;  τ = γε;
                mᵢ = [τᵢγ > 0];  λᵢ = Σₚ mean |τᵢ| / Σₚ mean |mᵢτ| over the tensors p;
                merged θ = θ₀ + τ;  of expert i, restored: θ₀ + λᵢmᵢτ
    Inputs      deltas: expert minus base
    Parameters  by_tensor: every tensor counts alike in λᵢ, whatever its size, after the authors'
                script for eight tasks; without it every entry does, after their paper and their
                script for thirty
    Properties  model order does not matter; one expert alone, or equal ones, are restored exactly
    When        the task of an input is known and nothing may be tuned: two models, a bit for each
                weight and expert. The merged model itself is seldom good; it is there to be masked
    Example     >>> merge("emr", [0.0] * 3, [[2, 4, 1], [3, 1, -3]], task=0)
                [3.0, 4.0, 0.0]
    Departures  An entry whose deltas cancel, and one of which nothing is left, have no defined
                sign; theirs is minus, as in the authors' code. λᵢ is 1 where it would be 0/0.
    """
    unified = _unified(deltas)
    mask = deltas.sign_()
    return unified, {"mask": mask, "rescaler": torch.tensor(rescaler)}
