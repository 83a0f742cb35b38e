"""The passes of one tensor that the compiled kernels make over its inputs as they are stored.

Every function gives None where that cannot be done: the kernels do not run here, the tensors
are not stored alike, lie on a GPU, are read by columns or against bases of their own; the
method has not said what it computes; or what was read is so large that the long way has to
look for NaN and infinity. The caller then runs the functions of the method, to the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cermet.checkpoints.dtypes import SIZES
from cermet.core.noise import Streams
from cermet.core.rounds import Gram, Kth, Round, Sum
from cermet.core.types import Doubles
from cermet.engine.blocks import Blocks
from cermet.engine.finite import FAR
from cermet.engine.leaves import FEW
from cermet.maths import native
from cermet.maths.lowered import Above, Chance, Combination, Norms, Ordered, Ranked, lowering
from cermet.maths.select import Bracket, Cutoff, Floats, Tally
from cermet.maths.sparsify import native_cuts

__all__ = ["Lowered"]

Key = tuple[int, int]
"""Row and cut of an order statistic."""


class Lowered:
    """One tensor's inputs, and its mask as bits."""

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks

    @property
    def alone(self) -> bool:
        """Whether every pass of the method over this tensor is one of those here, if its numbers
        are not too large: then nothing of it needs torch.
        """
        method, count = self._blocks.method, len(self._blocks.inputs)
        asked = [spec for spec in method.rounds if spec.scope == "tensor"]
        known = (method.mask is None or lowering(method.mask) is not None) and not method.parts
        formed = method.form is not None or method.coefficients is not None
        return (
            known and formed and self._blocks.in_files and len(asked) == len(method.rounds)
            and all(self._known(spec, count) for spec in asked)
        )  # fmt: skip

    @staticmethod
    def _known(spec: Round, models: int) -> bool:
        told = lowering(spec.of)
        if isinstance(spec, Kth):
            return isinstance(told, Ordered)
        if isinstance(spec, Gram):
            return spec.arrays and spec.of is None and models <= FEW
        return isinstance(spec, Sum) and spec.arrays and isinstance(told, Norms)

    def tallies(
        self,
        of: Callable[..., Any] | None,
        brackets: Mapping[Key, Bracket],
        begin: int,
        end: int,
        cap: int,
        *,
        nonzero: bool,
    ) -> dict[Key, Tally] | None:
        """What a pass tells of each bracket of an order statistic of `of`."""
        known = lowering(of)
        deltas = self._blocks.stored(begin, end) if isinstance(known, Ordered) else None
        if deltas is None or not isinstance(known, Ordered):
            return None
        asked = [(row, float(at.low), float(at.high)) for (row, _), at in brackets.items()]
        told, most = deltas.tallied(known.statistic, asked, self._blocks.cut.leaf, cap)
        if not most < FAR:
            return None
        return {
            key: Tally(b.above, b.top, b.inside, b.bottom, b.kept, b.nonzero if nonzero else 0)
            for key, b in zip(brackets, told, strict=True)
        }

    def values(self, of: Callable[..., Any] | None, begin: int, end: int) -> Floats | None:
        """Values of `of`, of which order statistics are taken: float32 [rows, elements]."""
        known = lowering(of)
        deltas = self._blocks.stored(begin, end) if isinstance(known, Ordered) else None
        if deltas is None or not isinstance(known, Ordered):
            return None
        if known.statistic == "variance":
            varied, most = deltas.variance()
            return varied[None] if most < FAR else None
        found, _, most = deltas.made()
        if not most < FAR:
            return None
        return np.abs(found, out=found) if known.statistic == "magnitude" else found

    def sums(
        self,
        of: Callable[..., Any] | None,
        known: Mapping[str, Any],
        streams: Streams,
        begin: int,
        end: int,
    ) -> Doubles | None:
        """Sums of `of` over leaves: [..., leaves]."""
        norms = lowering(of)
        if not isinstance(norms, Norms) or end - begin > self._blocks.cut.block:
            return None
        deltas = self._blocks.stored(begin, end)
        keep = None if deltas is None else self._keep(
            deltas, norms.keep == "mask", known.get(norms.keep), known, streams, begin, end
        )  # fmt: skip
        if deltas is None or keep is None:
            return None
        found, most = deltas.norms(keep, norms.power, self._blocks.cut.leaf, before=norms.before)
        return (found if norms.before else found[1]).astype(np.float64) if most < FAR else None

    def gram(self, of: Callable[..., Any] | None, begin: int, end: int) -> Doubles | None:
        """Inner products over leaves: [models, models, leaves]."""
        few = of is None and len(self._blocks.inputs) <= FEW
        deltas = self._blocks.stored(begin, end) if few else None
        if deltas is None:
            return None
        found, most = deltas.gram(self._blocks.cut.leaf)
        return found.astype(np.float64) if most < FAR else None

    def merged(
        self,
        form: Combination,
        known: Mapping[str, Any],
        streams: Streams,
        begin: int,
        end: int,
        dtype: str,
        place: native.Place | None,
    ) -> tuple[native.Memory | native.Wrote, Sequence[int]] | None:
        """The finished block, rounded once to the dtype of a file: flat [n]; and what each model,
        and the base, adds to its digest, where they were read from files.

        place: where it may be written at once, if the models are in files.
        """
        deltas = self._blocks.stored(begin, end)
        if deltas is None:
            return None
        keep = self._keep(deltas, form.masked, form.keep, known, streams, begin, end)
        if keep is None and form.masked:
            return None
        if dtype not in native.KINDS:
            return None
        out = place if place and self._blocks.in_files else deltas.room(dtype)
        most = (
            deltas.summed(out, form.factors, keep, dtype)
            if form.shares is None
            else deltas.elected(
                out, form.factors, form.shares, keep, dtype,
                plain=form.equal_votes, normalize=form.normalize, scale=form.scale,
            )
        )  # fmt: skip
        if most is None or not most < FAR:
            return None
        if not isinstance(out, native.Place):
            return out, deltas.digests
        return native.Wrote(deltas.written, deltas.numel * SIZES[dtype]), deltas.digests

    def _keep(
        self,
        deltas: native.Deltas,
        masked: bool,
        cutoff: Cutoff | None,
        known: Mapping[str, Any],
        streams: Streams,
        begin: int,
        end: int,
    ) -> native.Keep:
        if not masked:
            return None if cutoff is None else native_cuts(cutoff)
        return self._blocks.bits(begin, end, lambda: self._bits(deltas, known, streams, begin, end))

    def _bits(
        self,
        deltas: native.Deltas,
        known: Mapping[str, Any],
        streams: Streams,
        begin: int,
        end: int,
    ) -> native.Bits | None:
        """The method's mask of a block, made from what is stored."""
        blocks, mask = self._blocks, lowering(self._blocks.method.mask)
        if isinstance(mask, Above):
            cutoff: Cutoff | None = known[mask.cutoff]
            found = None if cutoff is None else (cutoff.value[0][0], cutoff.end[0][0])
            return None if found is None else native.varying(deltas.numel, *found)
        if blocks.noise is not None or not isinstance(mask, Chance | Ranked):
            return None
        if isinstance(mask, Chance):
            states = [state for s in streams["noise"] if (state := s.state(begin)) is not None]
            if len(states) == deltas.count:
                return native.drawn(states, known["density"], end - begin)
        draws = [stream.draw(begin, end).view("int16") for stream in streams["noise"]]
        if isinstance(mask, Chance):
            return native.chance(draws, known["density"])
        assert blocks.cut.length is not None
        return deltas.ranked(draws, known["density"], known["epsilon"], blocks.cut.length)
