"""What a merged piece leaves in the journal, and the look at it before it is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from cermet.checkpoints.dtypes import TORCH
from cermet.core.errors import NonFiniteError
from cermet.core.fingerprint import digest_bytes
from cermet.engine.blocks import Blocks
from cermet.engine.target import Landed, Written, as_tensor
from cermet.maths import native

__all__ = ["Done", "check_range"]


@dataclass(slots=True)
class Done:
    """Partial digests of the output, the inputs and the parts of the elements [start, stop)."""

    start: int
    stop: int
    output: int
    inputs: list[int]
    parts: list[int] = field(default_factory=list)

    def add(
        self, out: Landed, blocks: Blocks, begin: int, end: int, read: Sequence[int] = ()
    ) -> None:
        """Add a finished block, and what was read for it.

        read: what the first ones of the inputs add to their digests, where that is known.
        """
        self.output += out.digest if isinstance(out, native.Wrote) else _digest(out, begin)
        for index, (given, first, last) in enumerate(blocks.parts(begin, end)):
            if index < len(read):
                self.inputs[index] += read[index]
            elif given.source.exact:
                self.inputs[index] += _digest(given.source.block(given.name, first, last), first)


def check_range(name: str, out: Written, dtype: str, *, large: bool) -> None:
    """Refuse a block of an output that leaves the range of its dtype (NonFiniteError).

    large: whether what it was made of is so large that any dtype may be left.
    """
    narrow = dtype == "F16"
    if not (narrow or large) or bool(torch.isfinite(as_tensor(out, TORCH[dtype])).all()):
        return
    wider = "out_dtype: bfloat16 or float32, or " if narrow else ""
    raise NonFiniteError(
        f"Tensor '{name}' of the output leaves the range of {dtype} "
        f"({torch.finfo(TORCH[dtype]).max:,.6g}). Use {wider}smaller weights."
    )


def _digest(flat: Written, start: int) -> int:
    if isinstance(flat, np.ndarray):
        found = native.digest(flat, start * flat.itemsize)
        return digest_bytes(flat.view(np.uint8), start * flat.itemsize) if found is None else found
    raw = flat.detach().cpu().contiguous().view(torch.uint8).numpy()
    return digest_bytes(raw, start * flat.element_size())
