from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float

from cermet.core.registry import Bits, Kth, PerModel, method
from cermet.core.types import Place
from cermet.maths.combine import weighted_sum
from cermet.maths.select import Cutoff
from cermet.maths.sparsify import magnitudes, trim
from cermet.methods.masks import chosen


def _inside(*, place: Place, layers_only: bool) -> bool:
    return place.layer is not None or not layers_only


def _largest(*, density: PerModel, numel: int) -> list[list[int]]:
    return [[min(numel, int(d * numel))] for d in density]


@method(
    on="deltas",
    source="arXiv:2408.13656",
    rounds=[
        Kth("cutoff", of=magnitudes, rank=_largest, scope="model", only=_inside, smallest=True)
    ],
    workspace=2.5,
    parts=[Bits("mask", only=_inside)],
    restore=chosen,
    properties=("permutation", "homogeneous", "odd"),
)
def localize_and_stitch(
    deltas: Float[torch.Tensor, "models *block"],
    *,
    cutoff: Cutoff | None,
    place: Place,
    density: PerModel = (0.05,),
    layers_only: bool = True,
) -> tuple[Float[torch.Tensor, "*block"], Mapping[str, torch.Tensor]]:
    """Keep each expert's few largest entries of the whole model; where they meet, average.

    Maths       mᵢ = [|τᵢ| > the ⌊dD⌋-th largest of all D of the model];
                θ = θ₀ + Σ mᵢτᵢ / max(1, Σ mᵢ);  of expert i, restored: θ where mᵢ, θ₀ elsewhere
    Inputs      deltas: expert minus base
    Parameters  density: share of the model's entries that each expert may change (one entry less,
                since the comparison is strict). layers_only: leave embeddings, head and all that
                stands outside of the layers at the base, and do not count them
    Properties  model order does not matter; an entry that one expert alone keeps is that expert's,
                one that none keeps is the base's
    When        experts whose skills sit in a few weights; there is no factor to tune
    Example     >>> merge("localize_and_stitch", [0.0] * 4, [[4, 3, 1, 0], [2, 3, 0, 8]],
                ...       density=0.75, layers_only=False)
                [4.0, 3.0, 0.0, 8.0]
    Departures  The dataless form; masks learnt from examples belong to a later shelf. The
                authors' language script adds every masked delta a second time; the paper does not.
    """
    if cutoff is None or not _inside(place=place, layers_only=layers_only):
        return torch.zeros_like(deltas[0]), {}
    kept = trim(deltas, cutoff.without_ties())
    total = weighted_sum(kept, [1.0] * len(kept))
    mask = kept.sign_().abs_()
    owners = weighted_sum(mask, [1.0] * len(mask))
    return total.div_(owners.clamp_min_(1.0)), {"mask": mask}
