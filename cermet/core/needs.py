"""Named statistics that a method declares, such as importance scores: files beside the models."""

from __future__ import annotations

from dataclasses import dataclass

from cermet.core.types import Place

__all__ = ["Need"]


@dataclass(frozen=True, slots=True)
class Need:
    """A statistic: for every tensor that is merged one of the same name, and of its shape.

    Attributes
    ----------
    name: the argument under which functions of the method get it, block by block in float32.
    about: what it holds, in a few words; messages and pages quote it.
    per_model: one for each expert, [experts, *block]; else one for all, [*block].
    square: of a matrix [outputs, inputs] it is [inputs, inputs], such as a Gram matrix of the
        inputs; for methods of the grain `matrix`. Tensors that the maths does not cover
        (`otherwise`) need none.
    """

    name: str
    about: str
    per_model: bool = True
    square: bool = False

    def shape(self, place: Place) -> tuple[int, ...]:
        """The shape of the statistic of a tensor."""
        if not self.square:
            return place.shape
        inputs = place.shape[-2 if place.transposed else -1]
        return (*place.shape[:-2], inputs, inputs)

    def wanted(self, *, plain: bool) -> bool:
        """Whether a tensor has to have it; `plain`: it is added up, without the maths."""
        return not (self.square and plain)
