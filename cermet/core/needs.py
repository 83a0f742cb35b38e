"""Named statistics that a method declares, such as importance scores: files beside the models."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Need"]


@dataclass(frozen=True, slots=True)
class Need:
    """A statistic: for every tensor that is merged one of the same name and shape.

    Attributes
    ----------
    name: the argument under which functions of the method get it, block by block in float32.
    about: what it holds, in a few words; messages and pages quote it.
    per_model: one for each expert, [experts, *block]; else one for all, [*block].
    """

    name: str
    about: str
    per_model: bool = True
