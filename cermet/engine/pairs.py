"""Which tensor of a base each tensor of an expert was tuned from."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cermet.anatomy import Anatomy, survey
from cermet.checkpoints.dtypes import FLOATS
from cermet.checkpoints.header import TensorInfo
from cermet.checkpoints.reader import Checkpoint
from cermet.core.errors import MismatchError
from cermet.core.types import Place, Role

__all__ = ["Pair", "pairs"]


@dataclass(frozen=True, slots=True)
class Pair:
    """One tensor of the expert, and the name of the base's.

    plain: whether it is copied and never encoded, as a buffer is. tied: a tensor that the model
    takes from this one and does not store.
    """

    place: Place
    dtype: str
    base: str
    plain: bool
    tied: str | None = None


def pairs(expert: Checkpoint, base: Checkpoint) -> list[Pair]:
    """Every tensor of the expert with its counterpart; MismatchError where one has none.

    A tensor that one of the two leaves out because it is tied to another has that for its own.
    """
    own, other = (survey({n: t.shape for n, t in c.tensors.items()}, c.config)
                  for c in (expert, base))  # fmt: skip
    for name in base.tensors:
        if name not in expert.tensors and _tied(own, expert, name) is None:
            raise MismatchError(
                f"'{expert.path}' has no tensor '{name}', which '{base.path}' has; expert and base "
                "must have the same tensors."
            )
    tied = {group[0]: name for group in own.ties for name in group if name not in expert.tensors}
    return [
        replace(_pair(info, own.places[name], expert, base, other), tied=tied.get(name))
        for name, info in expert.tensors.items()
    ]


def _tied(anatomy: Anatomy, checkpoint: Checkpoint, name: str) -> str | None:
    """The stored tensor that a model says a name is tied to."""
    groups = (group for group in anatomy.ties if name in group)
    return next((other for group in groups for other in group if other in checkpoint.tensors), None)


def _pair(
    info: TensorInfo, place: Place, expert: Checkpoint, base: Checkpoint, other: Anatomy
) -> Pair:
    name = info.name
    stored = name if name in base.tensors else _tied(other, base, name)
    if stored is None:
        raise MismatchError(
            f"Tensor '{name}' of '{expert.path}' has no counterpart in '{base.path}'; expert and "
            "base must have the same tensors."
        )
    known = base.tensors[stored]
    if known.shape != info.shape:
        more = " Their vocabularies differ." if place.role in (Role.EMBEDDING, Role.HEAD) else ""
        raise MismatchError(
            f"Tensor '{name}' is {list(info.shape)} in '{expert.path}' but {list(known.shape)} in "
            f"'{base.path}'; their shapes must be equal.{more}"
        )
    for model, held, opposite in ((base, known, info), (expert, info, known)):
        if opposite.dtype in FLOATS and held.dtype not in FLOATS:
            raise MismatchError(
                f"Tensor '{held.name}' is {held.dtype} in '{model.path}', which is no dtype of "
                "weights; a quantised model must be dequantised first."
            )
    plain = info.dtype not in FLOATS or place.role is Role.BUFFER or not all(info.shape)
    return Pair(place, info.dtype, stored, plain)
