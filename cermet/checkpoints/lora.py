"""A base with a PEFT LoRA adapter on it, read as if it were one checkpoint.

The adapted tensor is W + scale * (B @ A), and with DoRA m * (W + s B A) / |W + s B A|, the length
taken per output. It is computed when a block is asked for, in float32, and never kept: the
adapter's files are mapped, and each thread holds the factors of one tensor and one tile.

A product of matrices may round differently when its operands are cut differently. So the product
is always made in the same tiles of whole rows, whose height follows from the tensor's shape alone,
and a block is cut out of them: any cut of a tensor gives the same bits.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from cermet.checkpoints.bins import flat_block, read_bin
from cermet.checkpoints.header import TensorInfo
from cermet.checkpoints.lora_config import read_adapter_config
from cermet.checkpoints.lora_edits import plan_edits
from cermet.checkpoints.lora_parts import Edit, LowRank
from cermet.checkpoints.lora_ties import spread_to_ties
from cermet.checkpoints.reader import Checkpoint, open_checkpoint
from cermet.core.errors import FormatError

__all__ = ["AdaptedCheckpoint", "read_weights", "tile_rows"]

_TILE = 262_144  # elements; a tile of float32 and its product fit in a core's cache


class AdaptedCheckpoint:
    """A base checkpoint with a LoRA adapter applied, block by block.

    Parameters
    ----------
    base: the checkpoint that the adapter was trained on. Names that differ by a prefix are matched.
    adapter: folder with `adapter_config.json` and `adapter_model.safetensors` or `.bin`.
    path: how the user wrote the pair; `<base>+<adapter>` by default.

    Attributes
    ----------
    path: as the user wrote it.
    config: the base's configuration.
    exact: False; a product of matrices may round differently on another kind of processor.
    tensors: the base's tensors, with the base's dtypes. For tensors in `touched`, `begin` is -1:
        no run of bytes in a file is their value, only `block` gives it.
    touched: names of the tensors that the adapter changes.
    adapter: the adapter's files.

    Raises
    ------
    FormatError: an adapter that is damaged, incomplete, not LoRA, or of a kind that cannot be
        applied to weights.
    MismatchError: an adapter that does not fit the base.
    """

    exact = False

    def __init__(self, base: Checkpoint, adapter: Path, *, path: str | None = None) -> None:
        self.path = f"{base.path}+{adapter}" if path is None else path
        self.config: Mapping[str, Any] = base.config
        self._base = base
        config = read_adapter_config(adapter)
        file, values = read_weights(adapter)
        self.adapter = (adapter / "adapter_config.json", file)
        self._edits = plan_edits(file, values, config, base.tensors)
        spread_to_ties(base, self._edits)
        self.touched = frozenset(self._edits)
        self.tensors: Mapping[str, TensorInfo] = MappingProxyType(
            {
                name: info._replace(begin=-1) if name in self.touched else info
                for name, info in base.tensors.items()
            }
        )
        self._held = _Held()
        self._lengths: dict[str, torch.Tensor] = {}
        self._locks = {name: threading.Lock() for name in self._edits}

    @property
    def base(self) -> Checkpoint:
        """What the adapter is applied to, as it is stored."""
        return self._base

    def block(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Elements [start, stop) of the row-major adapted tensor, 1-D.

        Float32 and the caller's own for tensors in `touched` (integers that the adapter replaces
        keep their dtype); the base's block for all others.

        Raises
        ------
        KeyError: no tensor of that name.
        IndexError: a range outside of the tensor.
        """
        edit = self._edits.get(name)
        if edit is None:
            return self._base.block(name, start, stop)
        size = self.tensors[name].numel
        if not 0 <= start <= stop <= size:
            raise IndexError(f"elements [{start}, {stop}) of {name!r}, which has {size}")
        if edit.low_rank is None:
            return self._plain(name, edit, start, stop)
        return self._tiled(name, edit, edit.low_rank, start, stop)

    def _source(self, name: str, edit: Edit, start: int, stop: int) -> torch.Tensor:
        """The values that the adapter changes: the base's, or those that replace them."""
        if edit.replaced is None:
            return self._base.block(name, start, stop).to(torch.float32)
        block = flat_block(edit.replaced, start, stop)
        return block.to(torch.float32) if block.is_floating_point() else block

    def _plain(self, name: str, edit: Edit, start: int, stop: int) -> torch.Tensor:
        """Edits that act on each element alone, so that the cut cannot matter."""
        block = self._source(name, edit, start, stop).clone()
        if edit.shift is not None:
            block += flat_block(edit.shift, start, stop).to(torch.float32) * edit.shift_scale
        if edit.row_values is not None:
            width = edit.shape[1]
            for place, row in enumerate(edit.rows):
                first, last = max(start, row * width), min(stop, (row + 1) * width)
                if first < last:
                    values = edit.row_values[place, first - row * width : last - row * width]
                    block[first - start : last - start] = values
        return block

    def _tiled(
        self, name: str, edit: Edit, low_rank: LowRank, start: int, stop: int
    ) -> torch.Tensor:
        """A range of a tensor with a low-rank delta, cut out of whole tiles."""
        block = torch.empty(stop - start)
        matrix, height = low_rank.rows * low_rank.cols, tile_rows(low_rank.cols)
        place = start
        while place < stop:
            which, inside = divmod(place, matrix)
            top = inside // low_rank.cols // height * height
            first = which * matrix + top * low_rank.cols
            tile = self._tile(name, edit, low_rank, which, top)
            end = min(stop, first + tile.numel())
            block[place - start : end - start] = tile[place - first : end - first]
            place = end
        return block

    def _tile(self, name: str, edit: Edit, low_rank: LowRank, which: int, top: int) -> torch.Tensor:
        """The finished rows from `top` on of matrix `which`, flat; kept until the thread asks
        for another, so that small cuts do not make it again."""
        held = self._held
        if held.place != (name, which, top):
            summed = self._sum(name, edit, low_rank, which, top)
            if low_rank.magnitude is not None:
                lengths = self._lengths_of(name, edit, low_rank, summed)
                magnitude = low_rank.magnitude
                if low_rank.form == "plain":
                    magnitude = magnitude[top : top + len(summed)].view(-1, 1)
                summed *= magnitude / lengths
            held.tile, held.place = summed.view(-1), (name, which, top)
        return held.tile

    def _sum(self, name: str, edit: Edit, low_rank: LowRank, which: int, top: int) -> torch.Tensor:
        """Rows of W + scale * (left @ right), [height, cols]."""
        held = self._held
        if held.name != name:
            held.name, held.factors = name, low_rank.factors()
        left, right = held.factors
        end = min(top + tile_rows(low_rank.cols), low_rank.rows)
        delta = left[which, top:end] @ right[which]
        first = (which * low_rank.rows + top) * low_rank.cols
        source = self._source(name, edit, first, first + delta.numel())
        return delta.mul_(low_rank.scale).add_(source.view_as(delta))

    def _lengths_of(
        self, name: str, edit: Edit, low_rank: LowRank, summed: torch.Tensor
    ) -> torch.Tensor:
        """|W + s B A| of every output that `summed` has a part of, shaped to divide it.

        Outputs are rows, which a tile holds whole, or columns, which take a pass over the tensor.
        """
        if low_rank.form == "plain":
            return _squares(summed, 1).sqrt().to(torch.float32).view(-1, 1)
        with self._locks[name]:
            if name not in self._lengths:
                self._lengths[name] = self._column_lengths(name, edit, low_rank)
        return self._lengths[name]

    def _column_lengths(self, name: str, edit: Edit, low_rank: LowRank) -> torch.Tensor:
        """Length of every column of W + s B A: one pass over the tiles, in order."""
        total = torch.zeros(low_rank.cols, dtype=torch.float64)
        for top in range(0, low_rank.rows, tile_rows(low_rank.cols)):
            total += _squares(self._sum(name, edit, low_rank, 0, top), 0)
        return total.sqrt().to(torch.float32)


class _Held(threading.local):
    """What one thread keeps between two blocks: the factors of a tensor and a finished tile."""

    def __init__(self) -> None:
        self.name = ""
        self.factors: tuple[torch.Tensor, torch.Tensor] = (torch.empty(0), torch.empty(0))
        self.place: tuple[str, int, int] | None = None
        self.tile = torch.empty(0)


def tile_rows(columns: int) -> int:
    """Rows of a tile: by shape alone. Multiples of 16 keep every tile aligned for BLAS."""
    rows = _TILE // max(columns, 1)
    return rows // 16 * 16 or max(rows, 1)


def _squares(values: torch.Tensor, dim: int) -> torch.Tensor:
    """Sums of squares in float64."""
    return values.to(torch.float64).square_().sum(dim)


def read_weights(folder: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """The adapter's weights, mapped from their file; safetensors first, as in PEFT."""
    file = folder / "adapter_model.safetensors"
    if not file.is_file():
        file = folder / "adapter_model.bin"
        if not file.is_file():
            raise FormatError(
                f"{folder}: no adapter_model.safetensors and no adapter_model.bin beside "
                "adapter_config.json"
            )
        return file, read_bin(file)
    opened = open_checkpoint(file)
    return file, {
        name: opened.block(name, 0, info.numel).view(info.shape)
        for name, info in opened.tensors.items()
    }
