"""The inner loops of merges in C, where a compiler is at hand: fewer passes, the same bits.

The sources beside this file are compiled once, on the machine that runs them, and kept in
Cermet's cache. Where that cannot be done (no compiler, another processor, CERMET_NATIVE=0)
every caller runs its torch code, which gives the same numbers to the last bit. What is asked
for here comes as None where it does not apply to what is given, and the caller goes on with
torch.
"""

from cermet.maths.native.deltas import Bracketed, Deltas, Statistic, in_files, stored
from cermet.maths.native.masks import (
    Bits,
    Cuts,
    Keep,
    chance,
    drawn,
    packed,
    uniform,
    unpacked,
    varying,
)
from cermet.maths.native.memory import KINDS, Memory, Place, digest, finished, plain
from cermet.maths.native.results import Wrote

__all__ = [
    "KINDS",
    "Bits",
    "Bracketed",
    "Cuts",
    "Deltas",
    "Keep",
    "Memory",
    "Place",
    "Statistic",
    "Wrote",
    "chance",
    "digest",
    "drawn",
    "finished",
    "in_files",
    "packed",
    "plain",
    "stored",
    "uniform",
    "unpacked",
    "varying",
]
