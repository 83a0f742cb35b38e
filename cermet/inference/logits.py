"""A checkpoint on a few sentences: does it load, are its outputs finite, how surprised is it.

This is the first diagnosis of a bad merge, not an evaluation.
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cermet.core.errors import ExtraError, FormatError, InputError
from cermet.inference.loading import library, load_tokenizer, quiet

__all__ = ["Outputs", "outputs_of"]

_SENTENCES = (
    "The capital of France is Paris, and the river that runs through it is the Seine.",
    "def add(a, b):\n    return a + b\n",
    "If a train leaves at nine and arrives at noon, the journey takes three hours.",
    "Please remind me to call the dentist tomorrow morning.",
)
_POSITIONS = 48  # tokens of a sentence that are looked at


@dataclass(frozen=True)
class Outputs:
    """What a model gives on the sentences.

    values: float32 [positions, width]: logits, or hidden states where there is no head.
    loss: mean negative log-likelihood in nats, of the next token, or of the token itself for a
        masked language model; None without such a head.
    """

    architecture: str
    values: torch.Tensor
    loss: float | None

    @property
    def finite(self) -> bool:
        """Whether every value is a number."""
        return bool(torch.isfinite(self.values).all())

    def agreement(self, other: Outputs) -> float | None:
        """Share of positions at which both prefer the same token; None if not comparable."""
        if self.values.shape != other.values.shape or self.loss is None or not other.finite:
            return None
        return float((self.values.argmax(-1) == other.values.argmax(-1)).float().mean())


def _tokens(folder: Path, vocabulary: int) -> list[torch.Tensor]:
    """Token ids [1, length] of each sentence; fixed ids where no tokenizer can be read."""
    try:
        tokenizer = load_tokenizer(folder)
    except (InputError, FormatError):
        generator = torch.Generator().manual_seed(0)
        return [torch.randint(vocabulary, (1, 16), generator=generator) for _ in _SENTENCES]
    return [
        torch.tensor([tokenizer(text)["input_ids"][:_POSITIONS]]).clamp_max(vocabulary - 1)
        for text in _SENTENCES
    ]


def _model(folder: Path, adapter: Path | None) -> Any:
    """What the config names, with or without a head, and whatever of its weights is missing."""
    transformers = library("Looking at a model's outputs")
    config = transformers.AutoConfig.from_pretrained(folder)
    names = config.architectures or []
    kind = getattr(transformers, names[0], None) if names else transformers.AutoModel
    if kind is None:
        raise InputError(f"transformers knows no architecture '{names[0]}' ('{folder}').")
    model = kind.from_pretrained(folder, dtype=torch.float32)
    if adapter is not None:
        try:
            from peft import PeftModel
        except ImportError as error:
            raise ExtraError("Looking at an adapter needs peft: pip install peft") from error
        model = PeftModel.from_pretrained(model, adapter)
    return model.eval()


def outputs_of(folder: Path, adapter: Path | None = None) -> Outputs:
    """Load a checkpoint with transformers and run it on the sentences.

    Raises ExtraError without transformers, InputError for a model that takes no text.
    """
    library("Looking at a model's outputs")
    with quiet(), contextlib.redirect_stderr(io.StringIO()), torch.no_grad():
        try:
            model = _model(folder, adapter)
            config = getattr(model.config, "text_config", model.config)
            values, losses = [], []
            for ids in _tokens(folder, int(config.vocab_size)):
                extra = {"decoder_input_ids": ids} if config.is_encoder_decoder else {}
                out = model(input_ids=ids, **extra)
                logits = getattr(out, "logits", None)
                hidden = out.last_hidden_state if logits is None else logits
                values.append(hidden[0].float())
                if logits is not None and logits.shape[-1] >= config.vocab_size:
                    ahead = 0 if "MaskedLM" in type(model).__name__ else 1
                    losses.append(_surprise(logits[0].float(), ids[0], ahead))
        except (TypeError, ValueError, AttributeError, ImportError, OSError, RuntimeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"'{folder}' could not be run on text: {reason}") from error
    loss = float(torch.stack(losses).mean()) if losses else None
    return Outputs(type(model).__name__, torch.cat(values), loss)


def _surprise(logits: torch.Tensor, ids: torch.Tensor, ahead: int) -> torch.Tensor:
    """Mean negative log-likelihood of the token that stands `ahead` positions further on."""
    return torch.nn.functional.cross_entropy(logits[: len(logits) - ahead], ids[ahead:])
