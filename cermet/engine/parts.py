"""What a merge leaves of each expert: packing it, piece by piece, into files beside the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from cermet.core.errors import MethodError
from cermet.core.fingerprint import digest_bytes
from cermet.core.registry import Bits, Numbers
from cermet.engine.geometry import Geometry
from cermet.engine.target import Target
from cermet.recipes.assembly import PartSlot

__all__ = ["PartsOut", "PiecePacker", "unpacked"]


class PartsOut:
    """The parts of one tensor and where each of them goes."""

    def __init__(self, slots: Sequence[PartSlot], targets: Sequence[Target]) -> None:
        self.slots, self.targets = tuple(slots), tuple(targets)

    def check(self, method: str, cut: Geometry) -> None:
        """Refuse a method whose pieces do not begin at whole bytes of its bits, or rows."""
        bits = any(isinstance(slot.part, Bits) for slot in self.slots)
        if bits and (cut.grain == "column" or any(start % 8 for start, _ in cut.pieces())):
            raise MethodError(
                f"'{method}' declares bits at the grain '{cut.grain}'; they need whole elements "
                "or a whole tensor."
            )
        by_row = any(isinstance(slot.part, Numbers) and slot.part.by_row for slot in self.slots)
        if by_row and cut.grain != "row":
            raise MethodError(
                f"'{method}' declares numbers by row at the grain '{cut.grain}'; they need whole "
                "rows."
            )

    def piece(self, start: int, stop: int, unit: int = 1) -> PiecePacker:
        """The packer of one piece; unit: elements of a row, where rows stay together."""
        return PiecePacker(self, start, stop, unit)


class PiecePacker:
    """The parts of one piece: bits are gathered, and written when the piece is finished.

    A byte holds eight elements, which may come in different blocks.
    """

    def __init__(self, out: PartsOut, start: int, stop: int, unit: int) -> None:
        self.out, self.start, self.unit = out, start, unit
        size = -(-(stop - start) // 8)
        self._bits: list[npt.NDArray[np.uint8] | None] = [
            np.zeros(size, np.uint8) if isinstance(slot.part, Bits) else None for slot in out.slots
        ]
        self.digests = [0] * len(out.slots)

    def add(self, begin: int, parts: Mapping[str, torch.Tensor]) -> None:
        """Take the parts of the block that begins at flat element `begin`."""
        for index, slot in enumerate(self.out.slots):
            given = parts[slot.part.name]
            value = (given if slot.expert is None else given[slot.expert]).reshape(-1)
            gathered = self._bits[index]
            if gathered is not None:
                _gather(gathered, begin - self.start, value)
                continue
            by_row = isinstance(slot.part, Numbers) and slot.part.by_row
            if by_row or begin == 0:
                at = begin // self.unit * math.prod(slot.shape[1:]) if by_row else 0
                own = value.to("cpu", self.out.targets[index].dtype)
                # one element may have any stride, and then is no bytes
                self._write(index, at, own.clone(memory_format=torch.contiguous_format))

    def finish(self) -> list[int]:
        """Write the bits; the partial digests of all parts."""
        for index, gathered in enumerate(self._bits):
            if gathered is not None:
                self._write(index, self.start // 8, torch.from_numpy(gathered))
        return self.digests

    def _write(self, index: int, start: int, block: torch.Tensor) -> None:
        self.out.targets[index].put(start, block)
        raw = block.contiguous().view(torch.uint8).numpy()
        self.digests[index] += digest_bytes(raw, start * block.element_size())


def _gather(bits: npt.NDArray[np.uint8], offset: int, value: torch.Tensor) -> None:
    """Put the bits of a block into those of its piece, from element `offset` of the piece on."""
    ones = (value != 0).cpu().numpy()
    lead = offset % 8
    if lead:
        ones = np.concatenate([np.zeros(lead, bool), ones])
    packed = np.packbits(ones, bitorder="little")
    bits[offset // 8 : offset // 8 + len(packed)] |= packed


def unpacked(stored: torch.Tensor, begin: int, count: int) -> torch.Tensor:
    """Bits as stored, from the byte that holds element `begin` on -> float32 zeros and ones."""
    lead = begin % 8
    bits = np.unpackbits(stored.numpy(), count=lead + count, bitorder="little")[lead:]
    return torch.from_numpy(bits).to(torch.float32)
