"""Tied weights under an adapter: what happens to an embedding happens to its copy in the head.

A safetensors checkpoint holds tied weights once. One saved by torch holds them under both names,
and PEFT, which sees one parameter, would change both.
"""

from __future__ import annotations

import torch

from cermet.checkpoints.lora_parts import Edit
from cermet.checkpoints.reader import Checkpoint

__all__ = ["spread_to_ties"]

_PROBE = 4096  # elements compared at the start, the middle and the end of two tensors


def spread_to_ties(base: Checkpoint, edits: dict[str, Edit]) -> None:
    """Add to `edits` the copies of the matrices that it changes outside of the numbered layers.

    Copies are tensors of the same shape and dtype with the same values, in a base whose
    configuration does not say that embeddings and head are apart. Tensors that an adapter
    replaces whole are left apart, as in PEFT.
    """
    if base.config.get("tie_word_embeddings") is False:
        return
    loose = {
        name: info
        for name, info in base.tensors.items()
        if len(info.shape) == 2 and not any(part.isdigit() for part in name.split("."))
    }
    for name in [name for name in loose if name in edits and edits[name].replaced is None]:
        for other, info in loose.items():
            alike = (info.shape, info.dtype) == (loose[name].shape, loose[name].dtype)
            if other not in edits and alike and _same_values(base, name, other):
                edits[other] = edits[name]


def _same_values(base: Checkpoint, one: str, other: str) -> bool:
    rows, cols = base.tensors[one].shape
    size = rows * cols
    for start in (0, size // 2, max(size - _PROBE, 0)):
        stop = min(start + _PROBE, size)
        if not torch.equal(base.block(one, start, stop), base.block(other, start, stop)):
            return False
    return True
