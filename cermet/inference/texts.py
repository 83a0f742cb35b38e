"""A model that is asked for its loss on texts: of the next token, or of a label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float

from cermet.core.errors import InputError
from cermet.inference.network import Network
from cermet.inference.tokens import Tokenizer, marked, padded

__all__ = ["Example", "Losses", "TextModel"]

_IGNORED = -100  # a target that torch's cross entropy leaves out


@dataclass(frozen=True, slots=True)
class Example:
    """A text, and its class where a classifier is asked for one (its number or its name)."""

    text: str
    label: int | str | None = None


@dataclass(frozen=True)
class Losses:
    """What a model makes of a few examples.

    total: sum of the negative log-likelihoods in nats, with gradients where they are enabled.
    count: of tokens, or of labels. right: how many of them the model prefers to all others.
    """

    total: Float[torch.Tensor, ""]
    count: int
    right: int


class TextModel:
    """A causal language model, or a sequence classifier, read from a Hugging Face folder.

    Parameters
    ----------
    folder: the checkpoint, with its tokenizer.
    labelled: whether it classifies texts; else it predicts their next tokens.
    longest: tokens of a text that are read; the rest is cut off.

    Raises what `Tokenizer` and `Network` raise, and InputError for a classifier that does not
    choose one label for a text, or lacks a padding token.
    """

    def __init__(self, folder: Path, *, labelled: bool, longest: int) -> None:
        self._folder, self._labelled, self._longest = folder, labelled, longest
        self._tokenizer = Tokenizer(folder)
        self._network = Network(folder, "classifier" if labelled else "causal")
        self.module: Any = self._network.module
        config = self.module.config
        if getattr(config, "pad_token_id", None) is None:
            config.pad_token_id = self._tokenizer.pad
        self._padding = config.pad_token_id
        if labelled:
            self._check_classifier()

    def _check_classifier(self) -> None:
        config = self.module.config
        if config.num_labels < 2 or config.problem_type not in (
            None, "single_label_classification"
        ):  # fmt: skip
            raise InputError(f"'{self._folder}' does not choose one of several labels for a text.")
        if self._padding is None:
            raise InputError(
                f"'{self._folder}' names no padding token, which texts of unequal length need; "
                "give one as pad_token in its tokenizer_config.json."
            )

    def weights(self) -> dict[str, torch.Tensor]:
        """Parameters, and buffers of floats that are stored, by name; tied ones once."""
        stored = self.module.state_dict(keep_vars=True)
        named = [*self.module.named_parameters(), *self.module.named_buffers()]
        return {n: t.detach() for n, t in named if n in stored and t.is_floating_point()}

    def target(self, example: Example) -> int:
        """The number of an example's class; InputError where the model has no such class."""
        config, label = self.module.config, example.label
        number = config.label2id.get(label) if isinstance(label, str) else label
        if number is None or not 0 <= number < config.num_labels:
            raise InputError(
                f"The label {label!r} is none of '{self._folder}', which has {config.num_labels}: "
                f"{', '.join(list(config.label2id)[:8])}."
            )
        return int(number)

    def losses(
        self,
        examples: Sequence[Example],
        weights: Mapping[str, Float[torch.Tensor, "..."]],
        scale: Float[torch.Tensor, ""],
    ) -> Losses:
        """The loss on some examples with other weights than the model's, all logits times `scale`.

        A text without a second token has no next token and counts nothing.
        """
        rows = self._tokenizer.framed([e.text for e in examples], self._longest)
        self._network.check_tokens(max((max(row) for row in rows if row), default=-1))
        ids, mask = padded(rows, self._padding or 0), marked(rows)
        extra = {} if self._labelled else {"use_cache": False}
        given = {"input_ids": ids, "attention_mask": mask, **extra}
        logits = torch.func.functional_call(self.module, dict(weights), kwargs=given).logits
        if self._labelled:
            wanted = torch.tensor([self.target(e) for e in examples])
        else:
            logits, wanted = logits[:, :-1], ids.masked_fill(mask == 0, _IGNORED)[:, 1:]
            logits, wanted = logits.flatten(0, 1), wanted.flatten()
        total = torch.nn.functional.cross_entropy(
            logits.float() * scale, wanted, reduction="sum", ignore_index=_IGNORED
        )
        right = (logits.argmax(-1) == wanted).sum()
        return Losses(total, int((wanted != _IGNORED).sum()), int(right))
