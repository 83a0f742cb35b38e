"""Tensors that are copied byte for byte: buffers, and layers that are only moved."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from cermet.core.errors import MismatchError
from cermet.core.fingerprint import digest_bytes
from cermet.engine.blocks import Input
from cermet.engine.job import Done, Piece, Target

__all__ = ["CopyJob"]

_PIECE = 1 << 22  # elements


class CopyJob:
    """Copies the first input, and refuses where another one differs."""

    def __init__(
        self,
        name: str,
        numel: int,
        inputs: Sequence[Input],
        target: Target,
        *,
        skip: frozenset[int] = frozenset(),
        finished: Callable[[Done], None] | None = None,
    ) -> None:
        self.name, self.numel = name, numel
        self.inputs, self.target = tuple(inputs), target
        self.skip, self.finished = skip, finished

    def stages(self) -> Iterator[list[Piece]]:
        """One stage of independent pieces."""
        starts = [s for s in range(0, self.numel, _PIECE) if s not in self.skip]
        yield [self._piece(s, min(s + _PIECE, self.numel)) for s in starts]

    def _piece(self, start: int, stop: int) -> Piece:
        return lambda: self._copy(start, stop)

    def _copy(self, start: int, stop: int) -> None:
        first, *others = (i.source.block(i.name, start, stop) for i in self.inputs)
        for given, other in zip(self.inputs[1:], others, strict=True):
            if first.dtype != other.dtype or not torch.equal(_raw(first), _raw(other)):
                raise MismatchError(
                    f"The buffer '{given.name}' of model '{given.source.path}' differs from that "
                    f"of '{self.inputs[0].source.path}'; buffers are copied, so they must be equal."
                )
        out = self.target.block(start, stop)
        out.copy_(first)
        if self.finished is not None:
            digest = digest_bytes(_raw(out).numpy(), start * out.element_size())
            read = [digest if i.source.exact else 0 for i in self.inputs]
            self.finished(Done(start, stop, digest, read))


def _raw(block: Tensor) -> Tensor:
    return block.contiguous().view(torch.uint8)
