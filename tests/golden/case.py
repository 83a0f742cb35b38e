"""A golden file's inputs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

__all__ = ["Case"]

_MODEL = re.compile(r"base|expert\d+")


@dataclass(frozen=True)
class Case:
    """A golden file, without its outputs.

    groups: the first part of the tensors' names (`base`, `expert0`, `drop0`) -> tensors.
    """

    method: str
    parameters: Mapping[str, Any]
    recipe: str | None
    groups: Mapping[str, Mapping[str, Tensor]]

    @property
    def models(self) -> dict[str, Mapping[str, Tensor]]:
        """Base and experts."""
        return {name: held for name, held in self.groups.items() if _MODEL.fullmatch(name)}

    @property
    def experts(self) -> list[dict[str, Tensor]]:
        """The experts, in order."""
        return [dict(held) for held in self.numbered("expert")]

    def numbered(self, word: str) -> list[Mapping[str, Tensor]]:
        """The groups `word0`, `word1`, ... in order."""
        count = sum(re.fullmatch(rf"{word}\d+", name) is not None for name in self.groups)
        return [self.groups[f"{word}{i}"] for i in range(count)]
