"""The work on one output tensor: its rounds, its fit, its merge; cut into pieces.

A job is a sequence of stages; a stage is a list of independent pieces. An executor runs
the pieces of a stage in any order, on any thread, and then asks for the next stage. The
method does not know how its tensor was cut.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from cermet.core.cover import grain_of, plain_sum
from cermet.core.errors import BudgetError, CermetError, DataError, MethodError
from cermet.core.noise import Streams
from cermet.core.registry import Method, Need, PerModel, call, takes
from cermet.core.rounds import Fit, Gram, Kth, Round, Sum
from cermet.core.types import Place
from cermet.engine.blocks import Blocks, Input
from cermet.engine.done import Done, check_range
from cermet.engine.finite import FAR, Watch, refuse_non_finite, strong
from cermet.engine.geometry import LEAF, Geometry, geometry
from cermet.engine.leaves import Leaves, leaf_grams, leaf_sums
from cermet.engine.lower import Lowered
from cermet.engine.parts import PartsOut
from cermet.engine.reduce import stages_of
from cermet.engine.target import Landed, Target
from cermet.maths import native
from cermet.maths.lowered import Combination
from cermet.maths.select import Bracket, Cutoff, Floats, Tally, tally
from cermet.maths.vectors import Vectors

__all__ = ["Job", "Piece"]

Piece = Callable[[], None]


class Job:
    """One output tensor on its way."""

    together = False

    def __init__(
        self,
        name: str,
        shape: tuple[int, ...],
        method: Method,
        inputs: Sequence[Input],
        base: Input | None,
        parameters: Mapping[str, Any],
        target: Target,
        *,
        minus: Sequence[Input | None] = (),
        needs: Mapping[str, Sequence[Input]] | None = None,
        seed: int = 0,
        noise: torch.Tensor | None = None,
        dtype: str | None = None,
        device: str = "cpu",
        place: Place | None = None,
        block: int = 2 * LEAF,
        cache: int = 1 << 26,
        skip: frozenset[int] = frozenset(),
        finished: Callable[[Done], None] | None = None,
        parts: PartsOut | None = None,
    ) -> None:
        self.name = name
        self.method = method
        self.parameters: dict[str, Any] = {
            **parameters,
            "place": place,
            "count": len(inputs),
        }
        self.target = target
        self.skip, self.finished = skip, finished
        self.state: dict[str, Any] = {}
        self.plain = plain_sum(method, **self.parameters)
        self.cut: Geometry = geometry(shape, grain_of(method, **self.parameters), block)
        self.blocks = Blocks(
            name, method, self.cut, inputs, base, minus, seed, noise, dtype, device, cache, needs,
            _squares(method, place),
        )  # fmt: skip
        # the factors of the steps of a pipeline are multiplied
        large = bool(method.steps or method.composed) or any(map(strong, parameters.values()))
        self._watch = Watch(self.blocks, large)
        self.lowered = Lowered(self.blocks)
        self.parts = parts
        if parts is not None:
            parts.check(method.name, self.cut)

    @property
    def light(self) -> bool:
        """Whether torch will not be needed for it, if no number is very large."""
        alone = self.blocks.in_files if self.plain is not None else self.lowered.alone
        return alone and self.target.stored in native.KINDS and self.parts is None

    def recut(self, block: int) -> None:
        """Work in blocks of another size; before anything has been done."""
        self.cut = self.blocks.cut = self.cut.recut(block)

    @property
    def numel(self) -> int:
        """Elements of the output."""
        return self.cut.numel

    # -- stages ---------------------------------------------------------------

    def stages(self) -> Iterator[list[Piece]]:
        """Every stage, in order; the pieces of one are independent of each other."""
        if self.cut.numel == 0:
            return
        for spec in self.method.rounds if self.plain is None else ():
            yield from self.round(spec)
        yield from self.finish()

    def round(self, spec: Round) -> Iterator[list[Piece]]:
        """The stages of one round over this tensor; its result goes into the state."""
        if spec.when is not None and not call(spec.when, **self.parameters):
            self.state[spec.name] = None
        elif isinstance(spec, Fit):
            self.state.update(self._fit(spec.of))
        else:
            yield from stages_of(self, spec)
        self._watch.settle()

    def finish(self) -> Iterator[list[Piece]]:
        """The stages after the rounds: the fit and the merge."""
        if self.method.fit is not None and self.plain is None:
            self.state.update(self._fit(self.method.fit))
        if self.cut.grain == "column":
            # Columns run through the whole tensor, so it is one piece for the journal.
            todo = [] if 0 in self.skip else self.cut.pieces()
            yield [partial(self._merge_columns, start, stop) for start, stop in todo]
            self._watch.settle()
            yield [self._seal] if todo else []
            return
        todo = [p for p in self.cut.pieces() if p[0] not in self.skip]
        yield [partial(self._merge, start, stop) for start, stop in todo]
        self._watch.settle()

    def _fit(self, fit: Callable[..., Any] | None) -> Mapping[str, Any]:
        assert fit is not None
        try:
            fitted: Mapping[str, Any] = call(fit, **self.parameters, **self.state)
        except DataError as error:
            raise type(error)(f"Tensor '{self.name}': {error}.") from error
        except Exception as error:
            raise self._failed(error) from error
        return fitted

    def _failed(self, error: Exception) -> CermetError:
        """What to say when the code of a method, perhaps a plugin's, raises an error."""
        if isinstance(error, CermetError):
            return error
        reason = " ".join(str(error).split()).rstrip(".")
        what = f"'{self.method.name}' failed on tensor '{self.name}': {type(error).__name__}"
        kind = BudgetError if isinstance(error, torch.OutOfMemoryError) else MethodError
        return kind(f"{what}: {reason}." if reason else f"{what}.")

    def streams(self) -> Streams:
        """Fresh random numbers for one piece."""
        return self.blocks.streams()

    def seen(self) -> None:
        """All of the tensor has been read once, so all of it has been checked."""
        self._watch.seen()

    def values(
        self, of: Callable[..., Any] | None, streams: Streams, start: int, stop: int
    ) -> torch.Tensor:
        """A round's values [..., elements] of a run of leaves, whatever the size of a block."""
        parts = []
        for begin, end in self.cut.blocks(start, stop):
            values = self.block_values(of, streams, begin, end)
            parts.append(values if self.cut.length is None else values.flatten(-2))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def looked_at(
        self, of: Callable[..., Any] | None, streams: Streams, blocks: Sequence[tuple[int, int]]
    ) -> Floats:
        """A round's values [rows, elements] of some blocks, end to end and in memory."""
        known = [self.lowered.values(of, *block) for block in blocks]
        arrays = [values for values in known if values is not None]
        if len(arrays) == len(blocks):
            return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=-1)
        found = torch.cat([self.values(of, streams, *block) for block in blocks], dim=-1)
        values: Floats = found.cpu().numpy()
        return values

    def block_values(
        self, of: Callable[..., Any] | None, streams: Streams, begin: int, end: int
    ) -> torch.Tensor:
        """A round's values of one block, as `of` returns them."""
        block, _, most = self.blocks.load(begin, end)
        self._watch.look(block, begin, end, most)
        return block if of is None else self._apply(of, block, streams, begin, end)

    def _apply(
        self,
        function: Callable[..., Any],
        block: torch.Tensor,
        streams: Streams,
        begin: int,
        end: int,
    ) -> torch.Tensor:
        """Call a function of the method on a block, with all that it asks for."""
        known = self._known(begin, end)
        wanted = takes(function)
        asked = wanted if self.method.mask is None else wanted | takes(self.method.mask)
        for need in self.method.needs:
            if need.name in asked:
                known[need.name] = self._statistic(need, begin, end)
        if "mask" in wanted:
            known["mask"] = self.blocks.mask(block, known, streams, begin, end)
        for argument in self.method.draws.keys() & wanted:
            known[argument] = self.blocks.draws(streams, argument, begin, end)
        try:
            result: torch.Tensor = call(function, block, **known)
        except Exception as error:
            self._watch.settle()  # NaN that has not been noticed yet would be the reason
            raise self._failed(error) from error
        return result

    def _known(self, begin: int, end: int) -> dict[str, Any]:
        """The parameters and what the rounds have found, as a block of the tensor sees it."""
        known = dict(self.parameters)
        for key, value in self.state.items():
            if isinstance(value, Cutoff):
                value = value.at(begin)
            elif isinstance(value, Vectors):
                value = value.between(begin, end)
            known[key] = value
        return known

    def tallies(
        self, spec: Kth, brackets: Mapping[tuple[int, int], Bracket], begin: int, end: int,
        cap: int, streams: Streams, *, nonzero: bool,
    ) -> dict[tuple[int, int], Tally]:  # fmt: skip
        """What a pass over a run of leaves tells of each bracket of an order statistic."""
        told = self.lowered.tallies(spec.of, brackets, begin, end, cap, nonzero=nonzero)
        if told is not None:
            return told
        values = self.values(spec.of, streams, begin, end)
        return {
            key: tally(values[key[0]], at, self.cut.leaf, cap, nonzero=nonzero)
            for key, at in brackets.items()
        }

    def sums(self, spec: Sum, streams: Streams, begin: int, end: int) -> Leaves:
        """Sums of a round's values over the leaves of a run: float64 [..., leaves]."""
        known = self._known(begin, end)
        found = self.lowered.sums(spec.of, known, streams, begin, end)
        if found is not None:
            return found
        return leaf_sums(self.values(spec.of, streams, begin, end), self.cut.leaf)

    def grams(self, spec: Gram, streams: Streams, begin: int, end: int) -> Leaves:
        """Inner products between the models over the leaves of a run: [models, models, leaves]."""
        found = self.lowered.gram(spec.of, begin, end)
        if found is not None:
            return found
        return leaf_grams(self.values(spec.of, streams, begin, end), self.cut.leaf)

    def _statistic(self, need: Need, begin: int, end: int) -> torch.Tensor:
        """The block of a statistic: float32 [experts, *block], or [*block] of one for all."""
        values = self.blocks.statistic(need.name, begin, end)
        if not abs(float(values.sum())) < FAR:
            start = None if self.cut.grain == "column" else begin
            for given, row in zip(self.blocks.needs[need.name], values, strict=True):
                refuse_non_finite(given, row.reshape(-1), start, of="the statistics")
        return values if need.per_model else values[0]

    # -- merge ----------------------------------------------------------------

    def _merged(
        self, streams: Streams, begin: int, end: int
    ) -> tuple[torch.Tensor, torch.Tensor | None, Mapping[str, torch.Tensor]]:
        """The result of one block, float32, in the shape that the method sees; the base that
        is still to be added; its parts.
        """
        coefficients = self._coefficients()
        if coefficients is not None:
            total, base = self.blocks.fold(coefficients, begin, end)
            self._watch.look(total, begin, end)  # NaN and infinity stay what they are in a sum
            return total, base, {}
        block, base, most = self.blocks.load(begin, end)
        self._watch.look(block, begin, end, most)
        merged: Any = self._apply(self.method.function, block, streams, begin, end)
        parts: Mapping[str, torch.Tensor] = {}
        if self.method.parts:
            merged, parts = self._divided(merged)
        if not isinstance(merged, torch.Tensor) or merged.shape != block.shape[1:]:
            shape = (
                list(merged.shape) if isinstance(merged, torch.Tensor) else type(merged).__name__
            )
            raise MethodError(
                f"'{self.method.name}' returned {shape} for a block {list(block.shape)} of tensor "
                f"'{self.name}'; it must return {list(block.shape[1:])}."
            )
        return merged, base, parts

    def _rounded(
        self, streams: Streams, begin: int, end: int
    ) -> tuple[Landed, Sequence[int], Mapping[str, torch.Tensor]]:
        """The result of one block as it is written, flat, or that it has been; what its inputs
        add to their digests, of the first ones, as far as it is known; its parts.
        """
        target, known = self.target, self._known(begin, end)
        form = self._form(known)
        place = None if self._watch.large else target.place(begin)
        made = None if form is None else self.lowered.merged(
            form, known, streams, begin, end, target.stored, place
        )  # fmt: skip
        if made is not None:
            return *made, {}
        merged, base, parts = self._merged(streams, begin, end)
        flat = merged.reshape(-1)
        out = native.finished(flat, None if base is None else base.reshape(-1), target.dtype)
        if out is None:
            whole = flat if base is None else merged.add_(base).reshape(-1)
            out = whole.to(target.device, target.dtype)
        return out, (), parts

    def _form(self, known: Mapping[str, Any]) -> Combination | None:
        """What the merge of a block is, where the method says so."""
        coefficients = self._coefficients()
        if coefficients is not None:
            return Combination(coefficients)
        form = None if self.method.parts else self.method.form
        found: Combination | None = None if form is None else call(form, **known)
        return found

    def _divided(self, result: Any) -> tuple[Any, Mapping[str, torch.Tensor]]:
        """The merged block and its parts, of a method that declares parts."""
        wanted = {slot.part.name for slot in self.parts.slots} if self.parts is not None else set()
        if isinstance(result, tuple) and len(result) == 2 and wanted <= set(result[1]):
            return result
        raise MethodError(
            f"'{self.method.name}' declares parts, so on tensor '{self.name}' it must return the "
            f"merged block and a mapping with {', '.join(sorted(wanted)) or 'nothing'}."
        )

    def _coefficients(self) -> PerModel | None:
        """What the models are multiplied by, where the merge is nothing but their sum."""
        if self.plain is not None or self.method.coefficients is None:
            return self.plain
        found: PerModel | None = call(self.method.coefficients, **self.parameters, **self.state)
        return found

    def _merge(self, start: int, stop: int) -> None:
        streams, done = self.streams(), self._nothing_done(start, stop)
        packer = None if self.parts is None else self.parts.piece(start, stop, self.cut.unit)
        for begin, end in self.cut.blocks(start, stop):
            out, read, parts = self._rounded(streams, begin, end)
            self._sign_off(out, begin, end, done, read)
            if isinstance(out, native.Wrote):
                self.target.wrote(begin, out.nbytes)
            else:
                self.target.put(begin, out)
            if packer is not None:
                packer.add(begin, parts)
        if packer is not None:
            done.parts = packer.finish()
        if self.finished is not None:
            self.finished(done)

    def _merge_columns(self, start: int, stop: int) -> None:
        unit, streams = self.cut.unit, self.streams()
        whole = self.target.view(0, self.cut.numel).view(unit, -1)
        for begin, end in self.cut.blocks(start, stop):
            merged, base, _ = self._merged(streams, begin, end)
            merged = merged if base is None else merged.add_(base)
            whole[:, begin // unit : end // unit].copy_(merged.t())

    def _seal(self) -> None:
        """Check and record a tensor that was written by columns."""
        done = self._nothing_done(0, self.cut.numel)
        for begin in range(0, self.cut.numel, LEAF):
            end = min(begin + LEAF, self.cut.numel)
            self._sign_off(self.target.view(begin, end), begin, end, done)
        if self.finished is not None:
            self.finished(done)

    def _nothing_done(self, start: int, stop: int) -> Done:
        return Done(start, stop, 0, [0] * len(self.blocks.given()))

    def _sign_off(
        self, out: Landed, begin: int, end: int, done: Done, read: Sequence[int] = ()
    ) -> None:
        """Check what is written, and add its digest and those of what was read."""
        if not isinstance(out, native.Wrote):
            check_range(self.name, out, self.target.stored, large=self._watch.large)
        if self.finished is not None:
            done.add(out, self.blocks, begin, end, read)


def _squares(method: Method, place: Place | None) -> dict[str, int]:
    """How many elements of a matrix's statistic there are, of those that are square."""
    if place is None or len(place.shape) < 2:
        return {}
    return {n.name: math.prod(n.shape(place)[-2:]) for n in method.needs if n.square}
