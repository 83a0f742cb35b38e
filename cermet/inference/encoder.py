"""Sentence encoders: a checkpoint folder and texts become mean-pooled embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cermet.core.errors import ExtraError, FormatError, InputError

__all__ = ["LONGEST", "Encoder", "mean_pool", "quiet"]

LONGEST = 128
"""Tokens of a text that are read; the rest is cut off."""

_BATCH = 64  # texts in one forward pass: bounded memory, and short texts are padded little


class Encoder:
    """An encoder of sentences, read from a Hugging Face folder.

    `model` and `tokenizer` are transformers' own; training goes through them. Raises
    ExtraError where transformers is missing, InputError where there is no such folder, and
    FormatError where transformers cannot read it.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "config.json").is_file():
            raise InputError(f"'{folder}' is not a checkpoint folder: it holds no config.json.")
        try:
            from transformers import AutoModel, AutoTokenizer
            from transformers.utils import logging
        except ImportError as error:
            raise ExtraError(
                "Running a model needs transformers; install it with: pip install 'cermet[load]'"
            ) from error
        try:
            with quiet(logging):
                self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
                self.model: Any = AutoModel.from_pretrained(
                    folder, local_files_only=True, dtype=torch.float32
                )
        except (OSError, ValueError, RuntimeError) as error:
            raise FormatError(f"'{folder}' cannot be loaded as a model: {error}") from error
        self.model.eval()

    def tokens(self, texts: Sequence[str]) -> dict[str, Int[Tensor, "texts tokens"]]:
        """Token ids and attention mask, padded to the longest of the texts."""
        found = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=LONGEST, return_tensors="pt"
        )
        return {name: found[name] for name in ("input_ids", "attention_mask")}

    def pooled(
        self, tokens: dict[str, Int[Tensor, "texts tokens"]]
    ) -> Float[Tensor, "texts width"]:
        """Mean-pooled last hidden states, with gradients where they are enabled."""
        hidden = self.model(**tokens).last_hidden_state
        return mean_pool(hidden, tokens["attention_mask"])

    def embed(self, texts: Sequence[str]) -> Float[Tensor, "texts width"]:
        """Embeddings of length 1, in the order of the texts, made in batches of 64."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        found = torch.empty(len(texts), self.model.config.hidden_size)
        with torch.inference_mode():
            for start in range(0, len(order), _BATCH):
                rows = order[start : start + _BATCH]
                pooled = self.pooled(self.tokens([texts[i] for i in rows]))
                found[rows] = torch.nn.functional.normalize(pooled, dim=-1)
        return found


@contextmanager
def quiet(logging: Any) -> Iterator[None]:
    """Without transformers' progress bars, many and short here, and without its warnings."""
    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def mean_pool(
    hidden: Float[Tensor, "texts tokens width"], mask: Int[Tensor, "texts tokens"]
) -> Float[Tensor, "texts width"]:
    """The mean over the tokens where the mask is 1."""
    weight = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weight).sum(1) / weight.sum(1).clamp(min=1.0)
