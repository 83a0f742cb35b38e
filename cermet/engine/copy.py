"""Tensors that are copied byte for byte: buffers, and layers that are only moved."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cermet.checkpoints.dtypes import NAMES, TORCH
from cermet.checkpoints.reader import SafetensorsCheckpoint
from cermet.core.errors import MismatchError
from cermet.core.fingerprint import digest_bytes
from cermet.engine.blocks import Input, Source
from cermet.engine.done import Done
from cermet.engine.finite import refuse_non_finite
from cermet.engine.job import Piece
from cermet.engine.target import Target
from cermet.recipes.plan import Plan

__all__ = ["CopyJob", "check_copies"]

_PIECE = 1 << 22  # elements
_EXPONENTS = {"F64": 0x7FF << 52, "F32": 0xFF << 23, "F16": 0x1F << 10, "BF16": 0xFF << 7}
"""Of each dtype the bits that are all set in NaN and infinity, and in nothing else."""

Bits = npt.NDArray[Any]


class CopyJob:
    """Copies the first input, and refuses where another one differs.

    With `finite`, NaN and infinity are refused too: a buffer may hold them, a weight may not.
    """

    together = False

    def __init__(
        self,
        name: str,
        numel: int,
        inputs: Sequence[Input],
        target: Target,
        *,
        finite: bool = False,
        skip: frozenset[int] = frozenset(),
        finished: Callable[[Done], None] | None = None,
    ) -> None:
        self.finite = finite
        self.name, self.numel = name, numel
        self.inputs, self.target = tuple(inputs), target
        self.skip, self.finished = skip, finished

    @property
    def light(self) -> bool:
        """Whether torch is not needed for it."""
        sources = [given.source for given in self.inputs]
        kinds = {
            s.tensors[given.name].dtype if isinstance(s, SafetensorsCheckpoint) else ""
            for s, given in zip(sources, self.inputs, strict=True)
        }
        return kinds == {self.target.stored}

    def stages(self) -> Iterator[list[Piece]]:
        """One stage of independent pieces."""
        starts = [s for s in range(0, self.numel, _PIECE) if s not in self.skip]
        yield [self._piece(s, min(s + _PIECE, self.numel)) for s in starts]

    def _piece(self, start: int, stop: int) -> Piece:
        return lambda: self._copy(start, stop)

    def _copy(self, start: int, stop: int) -> None:
        (kind, first), *others = (_read(i.source, i.name, start, stop) for i in self.inputs)
        for given, (own, other) in zip(self.inputs[1:], others, strict=True):
            if own != kind or not np.array_equal(first, other):
                raise MismatchError(
                    f"The buffer '{given.name}' of model '{given.source.path}' differs from that "
                    f"of '{self.inputs[0].source.path}'; buffers are copied, so they must be equal."
                )
        if self.finite and _far(kind, first):
            refuse_non_finite(self.inputs[0], _tensor(kind, first), start)
        if kind != self.target.stored:
            first = _bits(_tensor(kind, first).to(self.target.dtype))
        self.target.put(start, first)
        if self.finished is not None:
            digest = digest_bytes(first.view(np.uint8), start * first.itemsize)
            read = [digest if i.source.exact else 0 for i in self.inputs]
            self.finished(Done(start, stop, digest, read))


def check_copies(plan: Plan) -> None:
    """Refuse a model whose config ties two tensors that differ in its files."""
    for original, copy in plan.copies:
        checkpoint = plan.checkpoints[original.model]
        numel = checkpoint.tensors[copy.tensor].numel
        for start in range(0, numel, _PIECE):
            stop = min(start + _PIECE, numel)
            names = original.tensor, copy.tensor
            one, other = (_read(checkpoint, name, start, stop) for name in names)
            if one[0] != other[0] or not np.array_equal(one[1], other[1]):
                raise MismatchError(
                    f"'{plan.models[original.model]}' says that '{copy.tensor}' is tied to "
                    f"'{original.tensor}', but stores other numbers for it. Correct "
                    "tie_word_embeddings in its config, or remove the tensor."
                )


def _read(source: Source, name: str, start: int, stop: int) -> tuple[str, Bits]:
    """Elements of a tensor: their dtype as files spell it, and their bits."""
    if isinstance(source, SafetensorsCheckpoint):
        return source.tensors[name].dtype, source.raw(name, start, stop)
    block = source.block(name, start, stop)
    return NAMES[block.dtype], _bits(block)


def _bits(block: torch.Tensor) -> Bits:
    raw = block.contiguous().view(torch.uint8).numpy()
    return raw.view(f"u{block.element_size()}")


def _tensor(kind: str, bits: Bits) -> torch.Tensor:
    return torch.from_numpy(bits.view(np.uint8)).view(TORCH[kind])


def _far(kind: str, bits: Bits) -> bool:
    """Whether NaN or infinity is among numbers."""
    ones = np.array(_EXPONENTS[kind], bits.dtype)
    return bool(((bits & ones) == ones).any())
