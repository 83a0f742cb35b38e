"""A model that is asked for its loss on texts: of the next token, or of a label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cermet.checkpoints.carry import tokenizer_files
from cermet.core.errors import ExtraError, FormatError, InputError
from cermet.inference.encoder import quiet

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

    total: Float[Tensor, ""]
    count: int
    right: int


class TextModel:
    """A causal language model, or a sequence classifier, read from a Hugging Face folder.

    Parameters
    ----------
    folder: the checkpoint, with its tokenizer.
    labelled: whether it classifies texts; else it predicts their next tokens.
    longest: tokens of a text that are read; the rest is cut off.

    Raises ExtraError without transformers, FormatError where it cannot load the folder, and
    InputError for a model of another kind.
    """

    def __init__(self, folder: Path, *, labelled: bool, longest: int) -> None:
        self._folder, self._labelled, self._longest = folder, labelled, longest
        self.tokenizer, self.module = _loaded(folder, labelled)
        self.module.requires_grad_(False).eval()
        config = self.module.config
        own = self.tokenizer.pad_token_id
        if getattr(config, "pad_token_id", None) is None:
            config.pad_token_id = own
        self._padding = own if config.pad_token_id is None else config.pad_token_id
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

    def weights(self) -> dict[str, Tensor]:
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
        weights: Mapping[str, Float[Tensor, "..."]],
        scale: Float[Tensor, ""],
    ) -> Losses:
        """The loss on some examples with other weights than the model's, all logits times `scale`.

        A text without a second token has no next token and counts nothing.
        """
        ids, mask = self._tokens([e.text for e in examples])
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

    def _tokens(
        self, texts: Sequence[str]
    ) -> tuple[Int[Tensor, "texts tokens"], Int[Tensor, "texts tokens"]]:
        """Token ids, filled up on the right, and 1 where they are a text's."""
        found = self.tokenizer(list(texts), truncation=True, max_length=self._longest)["input_ids"]
        rows = [torch.tensor(row, dtype=torch.long) for row in found]
        marks = [torch.ones_like(row) for row in rows]
        ids = torch.nn.utils.rnn.pad_sequence(rows, True, self._padding or 0)
        known = self.module.get_input_embeddings().weight.shape[0]
        if ids.numel() and int(ids.max()) >= known:
            raise InputError(
                f"The tokenizer of '{self._folder}' gives token {int(ids.max())}, but the model "
                f"knows {known} tokens."
            )
        return ids, torch.nn.utils.rnn.pad_sequence(marks, True, 0)


def _loaded(folder: Path, labelled: bool) -> tuple[Any, Any]:
    """transformers' own tokenizer and model, in float32."""
    try:
        import transformers
    except ImportError as error:
        raise ExtraError(
            "Running a model needs transformers; install it with: pip install 'cermet[load]'"
        ) from error
    if not tokenizer_files(folder):  # without any, transformers may make one that knows no word
        raise InputError(f"'{folder}' holds no tokenizer, so it cannot read texts.")
    causal, classifier = "AutoModelForCausalLM", "AutoModelForSequenceClassification"
    kind = getattr(transformers, classifier if labelled else causal)
    try:
        with quiet(transformers.utils.logging):
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model, report = kind.from_pretrained(
                folder, local_files_only=True, dtype=torch.float32, output_loading_info=True
            )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise FormatError(f"'{folder}' cannot be loaded as a model: {reason}") from error
    if report["missing_keys"]:
        wanted = "sequence classifier" if labelled else "causal language model"
        raise InputError(
            f"'{folder}' is not a whole {wanted}: it lacks '{min(report['missing_keys'])}'."
        )
    return tokenizer, model
