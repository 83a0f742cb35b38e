"""A PEFT LoRA adapter by itself, without the base that it was trained on: factors by module."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from cermet.checkpoints.dtypes import FLOATS, NAMES
from cermet.checkpoints.header import read_json
from cermet.checkpoints.lora import read_weights
from cermet.checkpoints.lora_config import AdapterConfig, parse_adapter_config
from cermet.checkpoints.lora_edits import sort_parts
from cermet.core.errors import FormatError, MismatchError

__all__ = ["PREFIX", "Adapted", "Adapter", "adapter_of", "is_adapter", "open_adapter"]

PREFIX = "base_model.model."
"""What PEFT's names of tensors begin with."""

Kind = Literal["linear", "embedding"]

_NAMES: Mapping[Kind, tuple[str, str]] = {
    "linear": ("lora_A.weight", "lora_B.weight"),
    "embedding": ("lora_embedding_A", "lora_embedding_B"),
}
_DORA = "lora_magnitude_vector"


@dataclass(frozen=True)
class Adapted:
    """What an adapter has for one module.

    Attributes
    ----------
    kind: `embedding`, or `linear` for all else, convolutions too.
    a, b: as saved: [rank, in, *kernel] and [out, rank, *ones]; [rank, vocabulary] and
    [width, rank] of an embedding.
    scale: alpha / r or alpha / sqrt(r). bias: of b, [out], or None.
    """

    kind: Kind
    a: torch.Tensor
    b: torch.Tensor
    scale: float
    bias: torch.Tensor | None = None

    @property
    def rank(self) -> int:
        """Rows of a."""
        return self.a.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """Of the delta b @ a, a kernel laid flat: [out, in]."""
        return self.b.shape[0], math.prod(self.a.shape[1:])

    def matrices(self, device: str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
        """a [rank, in] and b [out, rank] in float32, on a device and in memory of their own."""
        a, b = self.a.reshape(self.rank, -1), self.b.reshape(self.b.shape[0], -1)
        # fresh memory: a mapped file may lie at any address, and BLAS rounds by alignment
        return (
            torch.empty(a.shape, device=device).copy_(a),
            torch.empty(b.shape, device=device).copy_(b),
        )


@dataclass(frozen=True)
class Adapter:
    """An adapter, read and checked.

    Attributes
    ----------
    path: as the user wrote it. files: config and weights; none of an adapter in memory.
    config: the settings that the maths needs; raw: all of them.
    prefix: what the names of its tensors begin with.
    modules: by the name of the module in the base.
    replaced: tensors that take the place of the base's, by name: `modules_to_save`, biases.
    """

    path: str
    files: tuple[Path, ...]
    config: AdapterConfig
    raw: Mapping[str, Any]
    prefix: str
    modules: Mapping[str, Adapted]
    replaced: Mapping[str, torch.Tensor]

    @property
    def base(self) -> str:
        """The base that its config names; empty where it names none."""
        return str(self.raw.get("base_model_name_or_path") or "")

    @property
    def largest_rank(self) -> int:
        """The largest rank that its config gives to any module."""
        return max(self.config.rank, *self.config.rank_pattern.values(), 0)

    def names(self, module: str, kind: Kind) -> tuple[str, str]:
        """The names of a module's a and b in a file of this form."""
        a, b = _NAMES[kind]
        return f"{self.prefix}{module}.{a}", f"{self.prefix}{module}.{b}"


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and no model beside it."""
    model = any(
        not path.name.startswith("adapter_")
        for pattern in ("*.safetensors", "pytorch_model*.bin")
        for path in folder.glob(pattern)
    )
    return (folder / "adapter_config.json").is_file() and not model


def open_adapter(folder: Path, path: str) -> Adapter:
    """Read the adapter in a folder; weights of safetensors are views of the file.

    Raises
    ------
    FormatError: damaged, incomplete, or of a kind that cannot be merged without its base.
    MismatchError: weights that do not fit the config.
    """
    config = folder / "adapter_config.json"
    if not config.is_file():
        raise FormatError(f"'{path}' holds no adapter_config.json; it is no PEFT adapter.")
    raw = read_json(config, "the adapter's configuration")
    parse_adapter_config(config, raw)  # what is refused is refused before the weights are opened
    file, values = read_weights(folder)
    return _adapter(values, raw, path, config, (config, file))


def adapter_of(tensors: Mapping[str, torch.Tensor], raw: Mapping[str, Any], path: str) -> Adapter:
    """An adapter in memory: tensors by the names that PEFT saves, and what its config holds.

    Raises FormatError and MismatchError as `open_adapter`.
    """
    return _adapter(tensors, raw, path, Path(path), ())


def _adapter(
    values: Mapping[str, torch.Tensor], raw: Mapping[str, Any], path: str, file: Path,
    files: tuple[Path, ...],
) -> Adapter:  # fmt: skip
    config = parse_adapter_config(file, raw)
    _refuse(path, config)
    replaced, modules = sort_parts(file, values)
    found = {}
    for name, levels in modules.items():
        if levels.keys() != {0}:
            raise _fused(path, name)
        found[name] = _adapted(path, name, levels[0], config)
    if not found and not replaced:
        raise FormatError(f"'{path}' holds no tensors of a LoRA adapter.")
    prefix = PREFIX if not values or any(n.startswith(PREFIX) for n in values) else ""
    return Adapter(path, files, config, raw, prefix, found, replaced)


def _refuse(path: str, config: AdapterConfig) -> None:
    if config.dora:
        raise FormatError(
            f"'{path}' is a DoRA adapter, whose deltas depend on its base, so it cannot be merged "
            "as an adapter. Merge it as a model: base+adapter."
        )
    if config.parameters:
        raise _fused(path, config.parameters[0])
    if config.tokens:
        raise FormatError(
            f"'{path}' holds trained tokens (trainable_token_indices), which replace rows of its "
            "base; merge it as a model: base+adapter."
        )


def _fused(path: str, name: str) -> FormatError:
    return FormatError(
        f"'{path}' adapts the parameter '{name}' without a module of its own (target_parameters), "
        "which cannot be merged as an adapter yet. Merge it as a model: base+adapter."
    )


def _adapted(
    path: str, module: str, parts: Mapping[str, torch.Tensor], config: AdapterConfig
) -> Adapted:
    """One module, its shapes held to the config."""
    if _DORA in parts:
        raise FormatError(f"'{path}': '{module}' has a magnitude, but 'use_dora' is not set.")
    kind: Kind = "embedding" if any("embedding" in part for part in parts) else "linear"
    first, second = _NAMES[kind]
    wrong = parts.keys() - {first, second, "lora_B.bias"}
    if wrong or first not in parts or second not in parts:
        raise FormatError(
            f"'{path}': '{module}' has {', '.join(sorted(parts))}, not {first} and {second}. Save "
            "the adapter again, or copy it again."
        )
    a, b, rank = parts[first], parts[second], config.rank_of(module)
    shapes = a.ndim >= 2 and b.ndim >= 2 and math.prod(b.shape[2:]) == 1 and a.numel() and b.numel()
    if not shapes or a.shape[0] != rank or b.shape[1] != rank:
        raise MismatchError(
            f"'{path}': the factors of '{module}' have the shapes {list(a.shape)} and "
            f"{list(b.shape)}, but its config gives them rank {rank}. Check that the two files "
            "belong together; grouped convolutions are not supported."
        )
    bias = parts.get("lora_B.bias")
    for name, value in ((first, a), (second, b), ("lora_B.bias", bias)):
        if value is not None and NAMES.get(value.dtype) not in FLOATS:
            raise FormatError(f"'{path}': {module}.{name} is {value.dtype}, no dtype of weights.")
    return Adapted(kind, a, b, config.scale_of(module), bias)
