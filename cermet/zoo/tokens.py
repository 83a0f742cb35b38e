"""Tokenizers of the small decoders: bytes, or byte-pair encoding learnt from texts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

__all__ = ["PAD", "SPECIALS", "Tokens", "byte_tokens", "learnt_tokens"]

SPECIALS: Mapping[str, tuple[int, str]] = {
    "pad_token": (0, "<pad>"),
    "bos_token": (1, "<bos>"),
    "eos_token": (2, "<eos>"),
}
"""Tokens that no text holds, with their numbers; a text begins with the beginning."""

PAD = SPECIALS["pad_token"][0]


@dataclass(frozen=True)
class Tokens:
    """A tokenizer whose tokens are bytes and runs of bytes, so that any text can be written."""

    tokenizer: Tokenizer

    @property
    def size(self) -> int:
        """Tokens of the vocabulary."""
        return int(self.tokenizer.get_vocab_size())

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text, without the beginning."""
        found = self.tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in found]

    def save(self, folder: Path, longest: int) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`. longest: tokens of a text."""
        self.tokenizer.save(str(folder / "tokenizer.json"))
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": longest,
            "clean_up_tokenization_spaces": False,
            **{name: text for name, (_, text) in SPECIALS.items()},
        }
        text = json.dumps(config, indent=2, sort_keys=True) + "\n"
        (folder / "tokenizer_config.json").write_text(text, "utf-8")

    @classmethod
    def load(cls, folder: Path) -> Tokens:
        """The tokenizer that `save` wrote into the folder."""
        return cls(Tokenizer.from_file(str(folder / "tokenizer.json")))


def byte_tokens() -> Tokens:
    """One token for each byte: 256 and the special ones."""
    names = [text for _, text in SPECIALS.values()] + sorted(pre_tokenizers.ByteLevel.alphabet())
    return _finished(Tokenizer(models.BPE({n: i for i, n in enumerate(names)}, [])))


def learnt_tokens(texts: Sequence[str], size: int) -> Tokens:
    """Byte-pair encoding with `size` tokens learnt from the texts; the same ones every time."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = _split()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[text for _, text in SPECIALS.values()],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    with _one_thread():
        tokenizer.train_from_iterator(texts, trainer)
    return _finished(tokenizer)


def _split() -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


def _finished(tokenizer: Tokenizer) -> Tokens:
    tokenizer.add_special_tokens([text for _, text in SPECIALS.values()])
    number, begin = SPECIALS["bos_token"]
    tokenizer.pre_tokenizer = _split()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", pair=f"{begin} $A $B", special_tokens=[(begin, number)]
    )
    return Tokens(tokenizer)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Learn on one thread: which of two equally frequent pairs is first must not be chance."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
