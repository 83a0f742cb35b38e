"""Checkpoints whose weights are stored in few bits: read as plain weights, or refused by name.

Eight-bit floats with scales, and four-bit floats in the form of MXFP4, are decoded block by block:
their numbers are exact in float32, so nothing is lost that the checkpoint still holds. Formats that
pack whole numbers are refused, with their name: what they have rounded away is no delta.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

import torch

from cermet.checkpoints.dtypes import EIGHT_BIT, FLOATS, SIZES, dtype_named
from cermet.checkpoints.header import TensorInfo
from cermet.checkpoints.reader import Checkpoint
from cermet.core.errors import FormatError, InputError, MismatchError

__all__ = ["DequantisedCheckpoint", "plain_weights", "repeatable"]

_SCALES = ("_scale_inv", "_scale")  # after the name of a weight; both are multiplied
_ACTIVATIONS = (".input_scale", ".activation_scale", ".output_scale", ".k_scale", ".v_scale")
_BLOCKS, _EXPONENTS = "_blocks", "_scales"
_MANTISSA = 23  # bits below the exponent of a float32
_SMALLEST = 1 << 22  # the bits of 2^-127, which an exponent of zero stands for
_GROUP, _BYTES = 32, 16  # numbers that share an exponent in MXFP4, and the bytes that hold them
_FOUR_BITS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # E2M1 by its three low bits; then the sign

# What packed formats leave in a file, by the end of a name: surely, or if the config says so too.
_PACKED = (
    (".quant_state.bitsandbytes__nf4", "bitsandbytes (4 bits)"),
    (".quant_state.bitsandbytes__fp4", "bitsandbytes (4 bits)"),
    (".absmax", "bitsandbytes (4 bits)"),
    (".SCB", "bitsandbytes (8 bits)"),
    (".qweight", "GPTQ or AWQ"),
    (".qzeros", "GPTQ or AWQ"),
    (".weight_packed", "compressed-tensors"),
)
_PERHAPS = (".W_q", ".codebooks", ".centroids", "._data", ".weight_scales", ".dense_weights")
_KEYS = ("quantization_config", "compression_config")


@dataclass(frozen=True, slots=True)
class _Scaled:
    """A weight of eight-bit floats: its scales, and the grid of blocks that share one."""

    scale: str
    grid: tuple[int, int]  # scales of one matrix, by rows and columns
    block: tuple[int, int]  # numbers of one scale, by rows and columns


def plain_weights(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint itself where its weights are plain; decoded where that is exact.

    Raises MismatchError, naming the format, where weights are packed in another way.
    """
    infos = checkpoint.tensors
    eight = [n for n, i in infos.items() if i.dtype in EIGHT_BIT and not _is_scale(n, infos)]
    four = [n for n in infos if _four_bit(n, infos)]
    packed = _packed(checkpoint)
    if packed is not None:
        tensor, name = packed
        raise MismatchError(
            f"'{checkpoint.path}' is quantised with {name} (tensor '{tensor}'), and its packed "
            "numbers cannot be merged. Give the model that it was made from, or one that was "
            "dequantised and saved again."
        )
    return DequantisedCheckpoint(checkpoint, eight, four) if eight or four else checkpoint


class _Blocks(Protocol):
    @property
    def exact(self) -> bool: ...


def repeatable(checkpoint: _Blocks) -> bool:
    """Whether blocks are the same on every machine: bytes of a file, or decoded exactly."""
    return checkpoint.exact or isinstance(checkpoint, DequantisedCheckpoint)


def _packed(checkpoint: Checkpoint) -> tuple[str, str] | None:
    """A tensor that only a packed format has, and the name of the format."""
    method = _method(checkpoint.config)
    for name, info in checkpoint.tensors.items():
        for end, title in _PACKED:
            if name.endswith(end):
                return name, method or title
        matrix = name.endswith(".weight") and len(info.shape) > 1 and info.dtype in ("I8", "U8")
        if method is not None and (matrix or name.endswith(_PERHAPS)):
            return name, method
    return None


def _method(config: Mapping[str, Any]) -> str | None:
    """What a config calls the format of its weights."""
    for holder in (config, config.get("text_config")):
        for key in _KEYS:
            found = holder.get(key) if isinstance(holder, Mapping) else None
            if isinstance(found, Mapping) and isinstance(found.get("quant_method"), str):
                return str(found["quant_method"])
    return None


def _is_scale(name: str, infos: Mapping[str, TensorInfo]) -> bool:
    return any(name.endswith(end) and name.removesuffix(end) in infos for end in _SCALES)


def _four_bit(name: str, infos: Mapping[str, TensorInfo]) -> bool:
    """Whether a tensor holds the numbers of MXFP4, with their exponents beside it."""
    if not name.endswith(_BLOCKS) or infos[name].dtype != "U8" or len(infos[name].shape) < 3:
        return False
    exponents = infos.get(name.removesuffix(_BLOCKS) + _EXPONENTS)
    blocks = infos[name].shape
    fits = exponents is not None and exponents.dtype == "U8" and exponents.shape == blocks[:-1]
    return fits and blocks[-1] == _BYTES


class DequantisedCheckpoint:
    """A checkpoint with weights of eight or four bits, presented as plain ones.

    Attributes
    ----------
    exact: False; blocks are not the bytes of a file.
    config: without the entry that says how the weights were quantised.
    tensors: decoded weights have the dtype that the config gives, or bfloat16; their blocks are
        float32, so that nothing is rounded before the merge. Scales are left out.
    """

    exact = False

    @property
    def base(self) -> Checkpoint:
        """The checkpoint as it is stored."""
        return self._stored

    def __init__(self, stored: Checkpoint, eight: list[str], four: list[str]) -> None:
        self.path, self.adapter = stored.path, stored.adapter
        self.config: Mapping[str, Any] = _without(stored.config)
        self._stored = stored
        out = _dtype(stored.config)
        self._scaled = {name: self._find(name) for name in eight}
        self._packed = {name.removesuffix(_BLOCKS): name for name in four}
        gone = {scaled.scale for scaled in self._scaled.values()}
        gone |= {n for name in four for n in (name, name.removesuffix(_BLOCKS) + _EXPONENTS)}
        found: dict[str, TensorInfo] = {}
        for name, info in stored.tensors.items():
            if name in self._packed.values():
                plain = name.removesuffix(_BLOCKS)
                found[plain] = _plain(info, plain, _unpacked(info.shape), out)
            elif name in self._scaled:
                found[name] = _plain(info, name, info.shape, out)
            elif name not in gone and not name.endswith(_ACTIVATIONS):
                found[name] = info
        self.tensors: Mapping[str, TensorInfo] = MappingProxyType(found)

    def stored_under(self, name: str) -> tuple[str, ...]:
        """The stored tensors that a tensor is made of."""
        if name in self._packed:
            return self._packed[name], name + _EXPONENTS
        return (name, self._scaled[name].scale) if name in self._scaled else (name,)

    def block(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Flat elements [start, stop) of a row-major tensor, 1-D; float32 where decoded."""
        if stop <= start and (name in self._scaled or name in self._packed):
            return torch.empty(0)
        if name in self._scaled:
            return self._eight(name, self._scaled[name], start, stop)
        if name in self._packed:
            return self._four(name, start, stop)
        return self._stored.block(name, start, stop)

    def _find(self, name: str) -> _Scaled:
        infos = self._stored.tensors
        shape = infos[name].shape
        scale = next((name + end for end in _SCALES if name + end in infos), None)
        if scale is None or len(shape) < 2:
            raise FormatError(
                f"Tensor '{name}' of '{self.path}' is {infos[name].dtype} and has no scales beside "
                f"it ('{name}{_SCALES[0]}' or '{name}{_SCALES[1]}'), so its numbers are unknown."
            )
        grid = _grid(infos[scale].shape, shape)
        block = _block(grid, shape[-2:], _block_size(self._stored.config)) if grid else None
        if grid is None or block is None:
            raise FormatError(
                f"Tensor '{scale}' of '{self.path}' is {list(infos[scale].shape)}, which is no "
                f"grid of blocks over '{name}' {list(shape)}."
            )
        return _Scaled(scale, grid, block)

    def _eight(self, name: str, scaled: _Scaled, start: int, stop: int) -> torch.Tensor:
        rows, cols = self.tensors[name].shape[-2:]
        first, last = start // cols, -(-stop // cols)
        numbers = self._stored.block(name, start, stop).to(torch.float32)
        row = torch.arange(first, last)
        at = row // rows * scaled.grid[0] + row % rows // scaled.block[0]
        low, high = int(at[0]), int(at[-1]) + 1
        width = scaled.grid[1]
        scales = self._scales(scaled.scale, low * width, high * width).view(-1, width)
        wide = scales.repeat_interleave(scaled.block[1], dim=1)[:, :cols][at - low].reshape(-1)
        return numbers.mul_(wide[start - first * cols : stop - first * cols])

    def _scales(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Scales as float32; those that are stored as exponents, as powers of two."""
        block = self._stored.block(name, start, stop)
        if self._stored.tensors[name].dtype in ("F8_E8M0", "U8"):
            bits = block.to(torch.int32) << _MANTISSA
            return torch.where(bits == 0, _SMALLEST, bits).view(torch.float32)
        return block.to(torch.float32)

    def _four(self, name: str, start: int, stop: int) -> torch.Tensor:
        """A range of the transposed tensor, out of bands of rows that share their exponents."""
        columns = self.tensors[name].shape[-1]
        high = _GROUP * columns
        parts = []
        for band in range(start // high, -(-stop // high)):
            begin = max(start - band * high, 0)
            parts.append(self._band(name, band)[begin : stop - band * high])
        return torch.cat(parts)

    def _band(self, name: str, band: int) -> torch.Tensor:
        """32 rows of a decoded tensor, flat: one group of every row as stored, turned round."""
        *_, rows, columns = self.tensors[name].shape
        which, group = divmod(band, rows // _GROUP)
        size = columns * (rows // _GROUP)
        exponents = self._scales(name + _EXPONENTS, which * size, (which + 1) * size)
        start, stop = which * size * _BYTES, (which + 1) * size * _BYTES
        stored = self._stored.block(self._packed[name], start, stop)
        packed = stored.view(columns, -1, _BYTES)[:, group]
        pairs = torch.stack((packed & 15, packed >> 4), dim=-1).view(columns, _GROUP).long()
        table = torch.tensor([*_FOUR_BITS, *(-v for v in _FOUR_BITS)])
        values = table[pairs] * exponents.view(columns, -1)[:, group, None]
        return values.t().reshape(-1)


def _plain(info: TensorInfo, name: str, shape: tuple[int, ...], dtype: str) -> TensorInfo:
    numel = 1
    for size in shape:
        numel *= size
    return info._replace(name=name, dtype=dtype, shape=shape, begin=-1, nbytes=numel * SIZES[dtype])


def _unpacked(shape: tuple[int, ...]) -> tuple[int, ...]:
    """[..., columns, groups, bytes] as stored -> [..., rows, columns] as a model has it."""
    *outer, columns, groups, _ = shape
    return (*outer, groups * _GROUP, columns)


def _grid(scale: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Scales by rows and columns of one matrix: one for the whole, one a row, or a grid."""
    if len(scale) == len(shape) and scale[:-2] == shape[:-2] and min(scale[-2:]) > 0:
        return scale[-2], scale[-1]
    if len(shape) == 2 and scale in ((), (1,)):
        return 1, 1
    return (scale[0], 1) if len(shape) == 2 and scale == shape[:1] else None


def _block(
    grid: tuple[int, int], shape: tuple[int, ...], told: tuple[int, int] | None
) -> tuple[int, int] | None:
    """The numbers under one scale: as the config says, or an even share of the matrix."""
    if told is not None and grid == (-(-shape[0] // told[0]), -(-shape[1] // told[1])):
        return told
    if shape[0] % grid[0] or shape[1] % grid[1]:
        return None
    return shape[0] // grid[0], shape[1] // grid[1]


def _block_size(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """The size of the blocks that share a scale, where the config gives one."""
    for value in _entries(config):
        size = value.get("weight_block_size")
        if isinstance(size, list) and len(size) == 2 and all(isinstance(n, int) for n in size):
            return (size[0], size[1]) if min(size) > 0 else None
    return None


def _entries(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for holder in (config, config.get("text_config")):
        if isinstance(holder, Mapping):
            yield from (holder[k] for k in _KEYS if isinstance(holder.get(k), Mapping))


def _dtype(config: Mapping[str, Any]) -> str:
    """The dtype that a config gives to what is not quantised."""
    named = config.get("dtype", config.get("torch_dtype"))
    try:
        found = dtype_named(named) if isinstance(named, str) else "BF16"
    except InputError:
        return "BF16"
    return found if found in FLOATS else "BF16"


def _without(config: Mapping[str, Any]) -> Mapping[str, Any]:
    kept = {k: v for k, v in config.items() if k not in _KEYS}
    text = kept.get("text_config")
    if isinstance(text, Mapping):
        kept["text_config"] = {k: v for k, v in text.items() if k not in _KEYS}
    return kept
