"""What a recipe names, opened: a model with its adapter, its folder, its tensors by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from cermet.checkpoints.hub import locate
from cermet.checkpoints.quantised import plain_weights
from cermet.checkpoints.reader import Checkpoint, open_checkpoint
from cermet.recipes.schema import ModelRef

__all__ = ["LazyTensors", "folder_of", "open_model"]


def open_model(reference: ModelRef, root: Path | None = None) -> Checkpoint:
    """Open a model that a recipe names, with its adapter; a relative path may start from `root`."""
    stored = open_checkpoint(locate(reference.path, reference.revision, root), reference.path)
    base = plain_weights(stored)
    if reference.lora is None:
        return base
    from cermet.checkpoints.lora import AdaptedCheckpoint

    adapter = locate(reference.lora, reference.lora_revision, root)
    return AdaptedCheckpoint(base, adapter, path=str(reference))


def folder_of(reference: ModelRef, root: Path | None = None) -> Path:
    """The folder that holds a model's files."""
    path = locate(reference.path, reference.revision, root)
    return path if path.is_dir() else path.parent


class LazyTensors(Mapping[str, "torch.Tensor"]):
    """A checkpoint's tensors by name, each read when it is asked for."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    def __getitem__(self, name: str) -> torch.Tensor:
        info = self._checkpoint.tensors[name]
        return self._checkpoint.block(name, 0, info.numel).reshape(info.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._checkpoint.tensors)

    def __len__(self) -> int:
        return len(self._checkpoint.tensors)
