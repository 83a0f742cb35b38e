"""What went into an output tensor, by the peer's own plan."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from torch import Tensor

__all__ = ["Array", "Checkpoint", "Group", "groups"]

Array = npt.NDArray[np.float64]


class Checkpoint:
    """Every tensor of a small model folder, read at once: `tensors` by name, and `config`."""

    def __init__(self, folder: Path) -> None:
        self.tensors: dict[str, Tensor] = {}
        for file in sorted(folder.glob("*.safetensors")):
            with safe_open(file, "pt") as held:
                for name in held.keys():  # noqa: SIM118 - not a mapping
                    self.tensors[name] = held.get_tensor(name)
        self.config: dict[str, Any] = json.loads((folder / "config.json").read_text())


@dataclass(frozen=True)
class Group:
    """The inputs of one output tensor, in the order of the recipe.

    base: the base's tensor, float32, or None. experts: the other models' tensors. each:
    the parameters of each expert. once: the parameters of the tensor.
    """

    method: str
    base: Tensor | None
    experts: tuple[Tensor, ...]
    each: tuple[Mapping[str, Any], ...]
    once: Mapping[str, Any]

    @cached_property
    def deltas(self) -> Tensor:
        """Experts minus base in float32, as both tools compute them: [experts, *shape]."""
        stacked = torch.stack(self.experts)
        return stacked if self.base is None else stacked - self.base

    def values(self, name: str) -> tuple[float, ...]:
        """One parameter for each expert."""
        return tuple(float(e[name]) for e in self.each)


def groups(
    method: str, plan: Mapping[str, Any], pool: dict[str, Checkpoint]
) -> Iterator[tuple[str, Group]]:
    """The inputs of every output tensor of a plan.json; `pool` caches checkpoints by path."""
    for name, entry in plan.items():
        tensors: dict[str, Tensor] = {}
        for path, names in entry["sources"]:
            if path not in pool:
                pool[path] = Checkpoint(Path(path))
            held = pool[path].tensors
            found = next((n for n in names if n in held), None)
            if found is not None:
                tensors[path] = held[found].float()
        base = entry["base"]
        experts = [path for path in tensors if path != base]
        yield (
            name,
            Group(
                method,
                tensors.get(base) if base is not None else None,
                tuple(tensors[path] for path in experts),
                tuple(entry["each"].get(path, {}) for path in experts),
                entry["once"],
            ),
        )
