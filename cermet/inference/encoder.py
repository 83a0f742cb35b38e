"""Sentence encoders: a checkpoint folder and texts become mean-pooled embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int

from cermet.inference.loading import load_module
from cermet.inference.tokens import Tokenizer, marked, padded

__all__ = ["LONGEST", "Encoder", "mean_pool"]

LONGEST = 128
"""Tokens of a text that are read; the rest is cut off."""

_BATCH = 64  # texts in one forward pass: bounded memory, and short texts are padded little


class Encoder:
    """An encoder of sentences that can be trained, read from a Hugging Face folder.

    `model` is transformers' own. Raises what `load_module` and `Tokenizer` raise.
    """

    def __init__(self, folder: Path) -> None:
        self._tokenizer = Tokenizer(folder)
        self.model: Any = load_module(folder, "encoder").module.eval()

    def tokens(self, texts: Sequence[str]) -> dict[str, Int[torch.Tensor, "texts tokens"]]:
        """Token ids and attention mask, padded to the longest of the texts."""
        rows = self._tokenizer.framed(texts, LONGEST)
        return {
            "input_ids": padded(rows, self._tokenizer.pad or 0),
            "attention_mask": marked(rows),
        }

    def pooled(
        self, tokens: dict[str, Int[torch.Tensor, "texts tokens"]]
    ) -> Float[torch.Tensor, "texts width"]:
        """Mean-pooled last hidden states, with gradients where they are enabled."""
        hidden = self.model(**tokens).last_hidden_state
        return mean_pool(hidden, tokens["attention_mask"])

    def embed(self, texts: Sequence[str]) -> Float[torch.Tensor, "texts width"]:
        """Embeddings of length 1, in the order of the texts, made in batches of 64."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        found = torch.empty(len(texts), self.model.config.hidden_size)
        with torch.inference_mode():
            for start in range(0, len(order), _BATCH):
                rows = order[start : start + _BATCH]
                pooled = self.pooled(self.tokens([texts[i] for i in rows]))
                found[rows] = torch.nn.functional.normalize(pooled, dim=-1)
        return found


def mean_pool(
    hidden: Float[torch.Tensor, "texts tokens width"], mask: Int[torch.Tensor, "texts tokens"]
) -> Float[torch.Tensor, "texts width"]:
    """The mean over the tokens where the mask is 1."""
    weight = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weight).sum(1) / weight.sum(1).clamp(min=1.0)
