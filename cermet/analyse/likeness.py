"""Whether checkpoints have the same form: their tensors and their configs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cermet.analyse.contents import is_buffer
from cermet.anatomy import Anatomy
from cermet.checkpoints.dtypes import FLOATS
from cermet.checkpoints.reader import Checkpoint

__all__ = ["ConfigDifference", "TensorDifference", "Twins", "config_differences", "twins_of"]

_HARMLESS = frozenset(
    {"torch_dtype", "dtype", "transformers_version", "use_cache", "auto_map", "initializer_range",
     "gradient_checkpointing", "output_attentions", "output_hidden_states", "return_dict",
     "task_specific_params", "unsloth_version", "unsloth_fixed"}
)  # fmt: skip
"""What changes no logit of a model that is loaded, or what its weights tell anyway."""


@dataclass(frozen=True)
class TensorDifference:
    """A tensor that a model does not have as the base has it. shape, base_shape: None where it
    is missing there.
    """

    model: str
    tensor: str
    base_shape: tuple[int, ...] | None
    shape: tuple[int, ...] | None


@dataclass(frozen=True)
class ConfigDifference:
    """A key of the config, with dots where it lies deeper, and its value in every model.

    everywhere: whether every config has the key; a value is None where one has not.
    """

    key: str
    values: tuple[Any, ...]
    everywhere: bool


@dataclass(frozen=True)
class Twins:
    """The tensors that all models share, and those that they do not.

    shared: the name in the base -> its name in each model, of parameters with equal shapes.
    """

    shared: Mapping[str, tuple[str, ...]]
    differences: tuple[TensorDifference, ...]


def twins_of(
    names: Sequence[str], checkpoints: Sequence[Checkpoint], anatomies: Sequence[Anatomy]
) -> Twins:
    """Match the tensors of several models with those of the first, by name.

    A head that one model ties to its embedding and another stores is matched as well.
    """
    base, anatomy = checkpoints[0], anatomies[0]
    shared: dict[str, tuple[str, ...]] = {}
    differences = []
    for tensor, info in base.tensors.items():
        twins = []
        for name, other, own in zip(names, checkpoints, anatomies, strict=True):
            stored = _stored(other, own, tensor)
            shape = None if stored is None else other.tensors[stored].shape
            if shape != info.shape:
                differences.append(TensorDifference(name, tensor, info.shape, shape))
            elif stored is not None and other.tensors[stored].dtype in FLOATS:
                twins.append(stored)
        if len(twins) == len(names) and not is_buffer(info, anatomy.places[tensor]):
            shared[tensor] = tuple(twins)
    for name, other in list(zip(names, checkpoints, strict=True))[1:]:
        for tensor, info in other.tensors.items():
            if tensor not in base.tensors and _stored(base, anatomy, tensor) is None:
                differences.append(TensorDifference(name, tensor, None, info.shape))
    return Twins(shared, tuple(differences))


def _stored(checkpoint: Checkpoint, anatomy: Anatomy, name: str) -> str | None:
    """The name under which a checkpoint holds a tensor: its own, or that of its tie."""
    if name in checkpoint.tensors:
        return name
    ties = (group for group in anatomy.ties if name in group)
    return next((n for group in ties for n in group if n in checkpoint.tensors), None)


def config_differences(configs: Sequence[Mapping[str, Any]]) -> tuple[ConfigDifference, ...]:
    """The keys whose values differ, of those that change what a model computes."""
    flat = [_flat(config) for config in configs]
    keys = dict.fromkeys(key for one in flat for key in one)
    found = []
    for key in keys:
        values = tuple(one.get(key) for one in flat)
        if any(value != values[0] for value in values):
            found.append(ConfigDifference(key, values, all(key in one for one in flat)))
    return tuple(sorted(found, key=lambda d: (not d.everywhere, d.key)))


def _flat(config: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in config.items():
        if key in _HARMLESS or key.startswith("_") or "dropout" in key:
            continue
        if isinstance(value, Mapping):
            found |= _flat(value, f"{before}{key}.")
        else:
            found[before + key] = value
    return found
