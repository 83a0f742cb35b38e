"""A model with the adapter on it, opened to be looked at: as it is stored, and as it is read."""

from __future__ import annotations

from pathlib import Path

from cermet.analyse.adapter import is_adapter
from cermet.analyse.contents import quantisation_of
from cermet.checkpoints.hub import locate
from cermet.checkpoints.lora import AdaptedCheckpoint
from cermet.checkpoints.quantised import plain_weights
from cermet.checkpoints.reader import Checkpoint, open_checkpoint
from cermet.core.errors import InputError, MismatchError
from cermet.recipes.schema import ModelRef

__all__ = ["OpenedModel"]


class OpenedModel:
    """A model with the adapter on it, if there is one.

    Attributes
    ----------
    stored: the model as it is on the disk. base: with its weights decoded. checkpoint: with the
        adapter as well. adapter: the folder of that. packed: why the weights cannot be decoded;
        the other two then hold them as they are stored.
    """

    def __init__(self, reference: ModelRef) -> None:
        path = locate(reference.path, reference.revision)
        if path.is_dir() and is_adapter(path):
            raise InputError(
                f"'{reference.path}' is an adapter and no model; write it behind its base, as "
                f"BASE+{reference.path}."
            )
        self.stored = self.base = open_checkpoint(path, reference.path)
        self.packed: MismatchError | None = None
        try:
            self.base = plain_weights(self.stored)
        except MismatchError as error:
            self.packed = error
        self.checkpoint: Checkpoint = self.base
        self.adapter: Path | None = None
        if reference.lora is not None:
            self.adapter = locate(reference.lora, reference.lora_revision)
            self.checkpoint = AdaptedCheckpoint(self.base, self.adapter, path=str(reference))

    @property
    def trouble(self) -> tuple[str, ...]:
        """What its quantisation is to be told of, as a sentence."""
        if self.packed is not None:
            return (str(self.packed),)
        kind = quantisation_of(self.stored.config)
        if kind is None or self.base is not self.stored:
            return ()
        return (f"config.json says that the weights are quantised ({kind}), but they are plain.",)
