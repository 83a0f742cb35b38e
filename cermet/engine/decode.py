"""Restoring one tensor of an expert: its base's, and what a delta archive holds of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from cermet.checkpoints.quantised import repeatable
from cermet.checkpoints.reader import Checkpoint
from cermet.core.codec import Codec
from cermet.core.errors import CermetError, FormatError, MismatchError
from cermet.core.fingerprint import digest_hex
from cermet.core.types import Place
from cermet.engine.archive import Entry, Stored
from cermet.engine.blocks import Input
from cermet.engine.encode import WHOLE, call_decode, chunks, uniform
from cermet.engine.job import Piece
from cermet.engine.restore import Digests
from cermet.engine.target import Target

__all__ = ["DecodeJob"]


class DecodeJob:
    """One tensor of the restored model; what is read is checked against the manifest's digests.

    base: None where the expert's own bytes are kept. kept: what holds the parts.
    Attribute digests: of what was read and written (`out`).
    """

    together = False

    def __init__(
        self,
        place: Place,
        entry: Entry,
        codec: Codec,
        base: Input | None,
        kept: Checkpoint | None,
        known: Mapping[str, Any],
        target: Target,
        *,
        archive: str,
        base_name: str,
        seed: int,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self.name, self.place, self.entry, self.codec = place.name, place, entry, codec
        self.base, self.kept, self.target, self.seed = base, kept, target, seed
        self.known = {**known, **entry.numbers, "place": place}
        self.archive, self.base_name, self.progress = archive, base_name, progress
        self.digests = Digests()

    @property
    def numel(self) -> int:
        """Elements of the tensor."""
        return math.prod(self.place.shape)

    def stages(self) -> Iterator[list[Piece]]:
        """One stage of independent pieces; then everything that was read is checked."""
        if self.entry.how == "coded" and self.codec.grain == "tensor":
            yield [self._whole]
        else:
            yield [self._piece(i, *run) for i, run in enumerate(chunks(self.numel))]
        self._compare()

    def _piece(self, index: int, start: int, stop: int) -> Piece:
        return lambda: self._run(index, start, stop)

    def _run(self, index: int, start: int, stop: int) -> None:
        if self.entry.how == "expert":
            parts = {n: self._part(s, start, stop) for n, s in self.entry.parts.items()}
            self._write(parts[WHOLE], start)
            return
        base = self._base(start, stop)
        if self.entry.how == "coded":
            parts = {n: self._chunk(s, index) for n, s in self.entry.parts.items()}
            # not in place: the block may be the mapped file itself
            base = base.float() + self._decoded(parts, start, stop)
        self._write(base.to(self.target.dtype), start)

    def _whole(self) -> None:
        parts = {
            name: self._part(stored, 0, math.prod(stored.shape)).view(stored.shape)
            for name, stored in self.entry.parts.items()
        }
        found = self._decoded(parts, 0, self.numel).reshape(-1)
        for start, stop in chunks(self.numel):
            block = self._base(start, stop).float() + found[start:stop]
            self._write(block.to(self.target.dtype), start)

    def _decoded(self, parts: Mapping[str, torch.Tensor], start: int, stop: int) -> torch.Tensor:
        known = {**self.known, "count": stop - start}
        if self.codec.noise:
            known["noise"] = uniform(self.seed, self.name, start, stop)
        whole = self.codec.grain == "tensor"
        shape = torch.Size(self.place.shape if whole else (stop - start,))
        try:
            return call_decode(self.codec, parts, known, shape)
        except CermetError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            raise FormatError(
                f"Tensor '{self.name}' of '{self.archive}' cannot be decoded by "
                f"'{self.codec.name}': {reason}."
            ) from error

    def _base(self, start: int, stop: int) -> torch.Tensor:
        assert self.base is not None
        raw = self.base.source.block(self.base.name, start, stop)
        if repeatable(self.base.source):
            self.digests.add("base", raw, start)
        return raw

    def _part(self, stored: Stored, start: int, stop: int) -> torch.Tensor:
        assert self.kept is not None
        part = self.kept.block(stored.name, start, stop)
        self.digests.add(stored.name, part, start)
        return part

    def _chunk(self, stored: Stored, index: int) -> torch.Tensor:
        """The elements of a part that belong to a run."""
        total = math.prod(stored.shape)
        if stored.ends is not None:
            bounds = [0, *stored.ends]
            runs = len(chunks(self.numel))
            if len(stored.ends) != runs or bounds != sorted(bounds) or bounds[-1] != total:
                raise FormatError(
                    f"'{stored.name}' of '{self.archive}' is not cut as its manifest says."
                )
            return self._part(stored, bounds[index], bounds[index + 1])
        start = index * (stored.stride or 0)
        last = index + 1 == len(chunks(self.numel))
        stop = total if last else start + (stored.stride or 0)
        return self._part(stored, min(start, total), min(stop, total))

    def _write(self, out: torch.Tensor, start: int) -> None:
        self.digests.add("out", out, start)
        self.target.put(start, out)
        if self.progress is not None:
            self.progress(out.nbytes)

    def _compare(self) -> None:
        found = self.digests.total
        for stored in self.entry.parts.values():
            assert self.kept is not None
            nbytes = self.kept.tensors[stored.name].nbytes
            if digest_hex(found.get(stored.name, 0), nbytes) != stored.digest:
                raise FormatError(
                    f"'{stored.name}' of '{self.archive}' has changed since it was written."
                )
        wanted = self.entry.base_digest
        if self.base is not None and wanted is not None and repeatable(self.base.source):
            nbytes = self.numel * self.base.source.block(self.base.name, 0, 0).element_size()
            if digest_hex(found.get("base", 0), nbytes) != wanted:
                raise MismatchError(
                    f"'{self.base_name}' is not the base that '{self.archive}' was made with: its "
                    f"tensor '{self.base.name}' is another. Name the right one with --base."
                )
