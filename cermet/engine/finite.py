"""Refusing NaN and infinity by name: which tensor, of what, at which element."""

from __future__ import annotations

import torch

from cermet.checkpoints.dtypes import NAMES
from cermet.core.errors import NonFiniteError
from cermet.engine.blocks import Blocks, Input

__all__ = ["FAR", "Watch", "refuse_non_finite", "strong"]

FAR = 1e30
"""A sum of inputs from which on float32 may overflow."""

_STRONG = 1e4  # a parameter from which on ordinary inputs may

_ADVICE = {
    "model": "check how the model was trained or converted",
    "the statistics": "make them again",
}


def refuse_non_finite(
    given: Input, block: torch.Tensor, start: int | None, cast: str = "", *, of: str = "model"
) -> None:
    """NonFiniteError for the first NaN or infinity of a flat block that begins at `start`.

    `cast` says to which dtype the recipe has it cast, if it does; `of`, whether it belongs to a
    model or to the statistics.
    """
    bad = (~torch.isfinite(block)).nonzero()
    if len(bad):
        where = "" if start is None else f" at element {start + int(bad[0])}"
        raise NonFiniteError(
            f"Tensor '{given.name}' of {of} '{given.source.path}' holds "
            f"{block[bad[0]].item()}{cast}{where}. A merge of it would be useless; "
            f"{_ADVICE[of]}."
        )


def strong(value: object) -> bool:
    """Whether a parameter, or one of its values, is so large that a product may overflow."""
    if isinstance(value, tuple):
        return any(map(strong, value))
    return isinstance(value, int | float) and abs(value) > _STRONG


class Watch:
    """Notices NaN and infinity in what is read of a tensor; one sum tells that there is none.

    Attributes
    ----------
    large: whether numbers are so large that those of the output may leave its range.
    """

    def __init__(self, blocks: Blocks, large: bool) -> None:
        self.large = large
        self._blocks = blocks
        self._seen = False
        self._sums: list[tuple[torch.Tensor, int, int]] = []

    def seen(self) -> None:
        """All of the tensor has been looked at, so no block of it is any more."""
        self.settle()  # before a search goes on, which NaN may keep from ending
        self._seen = True

    def look(self, block: torch.Tensor, start: int, stop: int, most: float | None = None) -> None:
        """Look at what was read, or made, of the elements [start, stop).

        `most`: the largest magnitude in it, where that is known.
        """
        if self._seen or (most is not None and most < FAR):
            return
        total = block.sum()
        if total.is_cuda:
            self._sums.append((total, start, stop))  # looked at once, at the end of the stage
        elif not abs(float(total)) < FAR:
            self.large = True
            self._refuse(start, stop)

    def settle(self) -> None:
        """Look at the sums that a stage has left on a GPU."""
        sums, self._sums = self._sums, []
        if sums and not bool(torch.isfinite(torch.stack([s for s, _, _ in sums])).all()):
            for _, start, stop in sums:
                self._refuse(start, stop)

    def _refuse(self, start: int, stop: int) -> None:
        """Name the first NaN or infinity of a block, if its sum was not just too large."""
        blocks = self._blocks
        for given in blocks.weights():
            raw = blocks.read(given, start, stop).reshape(-1).to(torch.float32)
            dtype, stored = blocks.dtype, given.source.block(given.name, 0, 0).dtype
            cast = "" if dtype in (None, stored) else f" as {NAMES[dtype]}"
            refuse_non_finite(given, raw, None if blocks.cut.grain == "column" else start, cast)
