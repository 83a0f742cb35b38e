"""Random draws as a function of (seed, tensor, model, position), and of nothing else.

A cut, a thread or an executor can therefore never change a random mask. The
generator is PCG64DXSM, which can jump to any position; every draw is a 16-bit
integer read as a fraction, so a probability is honoured to 1 part in 65,536.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["RESOLUTION", "Stream", "Streams"]

RESOLUTION = 1 << 16
"""Number of distinct values of one draw."""

_DRAWS_PER_WORD = 4  # one 64-bit word holds four 16-bit draws
_PERIOD = 1 << 128


class Stream:
    """The draws of one tensor of one model; not shared between threads.

    Reading on from where the last read ended is cheap; any other start is a jump. `step`
    counts the random steps of a pipeline; the first draws as its method does by itself.
    """

    def __init__(self, seed: int, tensor: str, model: int, step: int = 0) -> None:
        name = f"{seed}\x00{tensor}\x00{model}" + (f"\x00{step}" if step else "")
        key = hashlib.sha256(name.encode()).digest()
        words = np.frombuffer(key, dtype=np.uint32)
        self._generator = np.random.PCG64DXSM(np.random.SeedSequence(words.tolist()))
        self._position = 0

    def draw(self, start: int, stop: int) -> npt.NDArray[np.uint16]:
        """Draws of the positions [start, stop), each uniform over 0 .. 65,535."""
        first, last = start // _DRAWS_PER_WORD, -(-stop // _DRAWS_PER_WORD)
        self._go(first)
        words = np.asarray(self._generator.random_raw(last - first), dtype="<u8")
        self._position = last
        offset = start - first * _DRAWS_PER_WORD
        return words.view(np.uint16)[offset : offset + stop - start]

    def state(self, start: int) -> tuple[int, int] | None:
        """State and increment from which the draws of the positions from `start` on are made.

        None where that position is not the first one of a word.
        """
        if start % _DRAWS_PER_WORD:
            return None
        self._go(start // _DRAWS_PER_WORD)
        known = self._generator.state["state"]
        return known["state"], known["inc"]

    def _go(self, word: int) -> None:
        if word != self._position:
            self._generator.advance((word - self._position) % _PERIOD)
            self._position = word


Streams = Mapping[str, Sequence[Stream]]
"""Random numbers of one piece: argument of a method -> the draws of each model."""
