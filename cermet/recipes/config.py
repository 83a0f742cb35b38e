"""The config of the output: what changes when layers are stacked, dtypes cast, ties cut."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cermet.anatomy import (
    Anatomy,
    Modules,
    layer_count_keys,
    module_count_keys,
    per_layer_lists,
    text_path,
)
from cermet.checkpoints.reader import Checkpoint
from cermet.core.errors import MismatchError
from cermet.core.types import Role
from cermet.recipes.plan import Task
from cermet.recipes.schema import ModelRef, Recipe, Slice

__all__ = ["Opened", "output_config"]

_TIE_KEY = "tie_word_embeddings"
_SPELLED = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class Opened:
    """A model of a recipe with its headers and what they tell."""

    reference: ModelRef
    checkpoint: Checkpoint
    anatomy: Anatomy

    @property
    def depth(self) -> int:
        """Number of layers of the stack that recipes slice."""
        return self.anatomy.stacks[self.anatomy.main] if self.anatomy.main is not None else 0


def output_config(
    recipe: Recipe,
    models: Mapping[ModelRef, Opened],
    donor: Opened,
    tasks: Sequence[Task],
    dtype: str | None,
    modules: Modules,
) -> dict[str, Any]:
    """The donor's config with the fields that the output changes; empty where it has none."""
    config: dict[str, Any] = copy.deepcopy(dict(donor.checkpoint.config))
    if not config:
        return config
    if dtype is not None:
        config["dtype" if "dtype" in config else "torch_dtype"] = _SPELLED[dtype]
    heads = {t.name for t in tasks if t.place.role == Role.HEAD and not t.place.bias}
    if any(name in heads for group in donor.anatomy.ties for name in group[1:]):
        _untie(config)  # a head that all models tie is not written
    for block in recipe.blocks():
        if block.slices is None:
            continue
        module = modules.named(block.module) if block.module is not None else modules.main
        if module in (None, modules.main):
            _restack(config, block.slices, models, donor)
        else:
            _recount(config, block.slices, str(module), modules, donor)
    return config


def _recount(
    config: dict[str, Any], parts: Sequence[Slice], module: str, modules: Modules, donor: Opened
) -> None:
    """Correct the number of layers of an encoder or a tower."""
    (stack,) = modules.stacks[module]
    paths = module_count_keys(config, module, donor.anatomy.stacks[stack])
    if not paths:
        raise MismatchError(
            f"The config of '{donor.reference}' does not say how many layers its {module} has, so "
            "that it cannot be sliced."
        )
    if ("num_layers",) in paths and config.get("num_decoder_layers") is None:
        config["num_decoder_layers"] = config["num_layers"]  # T5's decoder follows its encoder
    for path in paths:
        _put(config, path, _length(parts))


def _length(parts: Sequence[Slice]) -> int:
    ranges = [part.sources[0].layer_range or (0, 0) for part in parts]
    return sum(stop - start for start, stop in ranges)


def _restack(
    config: dict[str, Any],
    parts: Sequence[Slice],
    models: Mapping[ModelRef, Opened],
    donor: Opened,
) -> None:
    """Correct the number of layers, and the lists that have an entry for each layer."""
    for path in per_layer_lists(config, donor.depth):
        inner = text_path(config)
        own = path[len(inner) :] if path[: len(inner)] == inner else path
        _put(config, path, [e for part in parts for e in _entries(part, own, models)])
    for path in layer_count_keys(config):
        _put(config, path, _length(parts))


def _entries(part: Slice, path: tuple[str, ...], models: Mapping[ModelRef, Opened]) -> list[Any]:
    """The entries of a per-layer list for the layers of a slice's first source."""
    source = part.sources[0]
    start, stop = source.layer_range or (0, 0)
    found: Any = models[source.model].checkpoint.config
    for step in (*text_path(found), *path):
        found = found.get(step) if isinstance(found, Mapping) else None
    if not isinstance(found, list) or len(found) < stop:
        raise MismatchError(
            f"The config of '{source.model}' has no '{'.'.join(path)}' with an entry for each of "
            "its layers, which the output needs."
        )
    return found[start:stop]


def _put(config: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for step in path[:-1]:
        config = config[step]
    config[path[-1]] = value


def _untie(config: dict[str, Any]) -> None:
    """Say that embedding and head are stored apart."""
    config[_TIE_KEY] = False
    text = config.get("text_config")
    if isinstance(text, dict) and _TIE_KEY in text:
        text[_TIE_KEY] = False
