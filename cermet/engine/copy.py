"""Tensors that are copied byte for byte: buffers, and layers that are only moved."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from cermet.core.errors import MismatchError
from cermet.core.fingerprint import digest_bytes
from cermet.engine.blocks import Input
from cermet.engine.finite import refuse_non_finite
from cermet.engine.job import Done, Piece
from cermet.engine.target import Target
from cermet.recipes.plan import Plan

__all__ = ["CopyJob", "check_copies"]

_PIECE = 1 << 22  # elements


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
        if self.finite and not bool(torch.isfinite(first.sum(dtype=torch.float32))):
            refuse_non_finite(self.inputs[0], first, start)
        out = first.to(self.target.dtype)
        self.target.put(start, out)
        if self.finished is not None:
            digest = digest_bytes(_raw(out).numpy(), start * out.element_size())
            read = [digest if i.source.exact else 0 for i in self.inputs]
            self.finished(Done(start, stop, digest, read))


def check_copies(plan: Plan) -> None:
    """Refuse a model whose config ties two tensors that differ in its files."""
    for original, copy in plan.copies:
        checkpoint = plan.checkpoints[original.model]
        numel = checkpoint.tensors[copy.tensor].numel
        for start in range(0, numel, _PIECE):
            stop = min(start + _PIECE, numel)
            one, other = (checkpoint.block(n.tensor, start, stop) for n in (original, copy))
            if one.dtype != other.dtype or not torch.equal(_raw(one), _raw(other)):
                raise MismatchError(
                    f"'{plan.models[original.model]}' says that '{copy.tensor}' is tied to "
                    f"'{original.tensor}', but stores other numbers for it. Correct "
                    "tie_word_embeddings in its config, or remove the tensor."
                )


def _raw(block: Tensor) -> Tensor:
    return block.contiguous().view(torch.uint8)
