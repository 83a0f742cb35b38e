"""The config of the output: what changes when layers are stacked, dtypes cast, ties cut."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cermet.anatomy import Anatomy, layer_count_keys, per_layer_lists
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
    if recipe.slices is not None:
        _restack(config, recipe.slices, models, donor)
    return config


def _restack(
    config: dict[str, Any],
    parts: Sequence[Slice],
    models: Mapping[ModelRef, Opened],
    donor: Opened,
) -> None:
    """Correct the number of layers, and the lists that have an entry for each layer."""
    ranges = [part.sources[0].layer_range or (0, 0) for part in parts]
    for path in per_layer_lists(config, donor.depth):
        _put(config, path, [e for part in parts for e in _entries(part, path, models)])
    for path in layer_count_keys(config):
        _put(config, path, sum(stop - start for start, stop in ranges))


def _entries(part: Slice, path: tuple[str, ...], models: Mapping[ModelRef, Opened]) -> list[Any]:
    """The entries of a per-layer list for the layers of a slice's first source."""
    source = part.sources[0]
    start, stop = source.layer_range or (0, 0)
    found: Any = models[source.model].checkpoint.config
    for step in path:
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
