"""Small tokenizers of every kind, written as transformers writes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

__all__ = ["KINDS", "TEXT", "save_tokenizer"]

KINDS = ("byte-level BPE", "SentencePiece BPE", "unigram", "WordPiece", "word level")
TEXT = "the cat sat on the mat"
_SPECIAL = ("<unk>", "<s>", "</s>")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_PAIRS = [("t", "h"), ("th", "e"), ("a", "t")]


def _model(kind: str, more: Sequence[str]) -> tokenizers.Tokenizer:
    mark = "Ġ" if kind == "byte-level BPE" else "▁"
    joined = [a + b for a, b in _PAIRS]
    if kind == "unigram":
        pieces = [(t, 0.0) for t in _SPECIAL]
        pieces += [(t, -1.0 - 0.1 * i) for i, t in enumerate([mark, *joined, *_LETTERS, *more])]
        made = tokenizers.Tokenizer(models.Unigram(pieces, 0, False))
    elif kind == "WordPiece":
        words = [*_SPECIAL, *_LETTERS, *(f"##{c}" for c in _LETTERS), "the", "##at", *more]
        ids = {t: i for i, t in enumerate(words)}
        made = tokenizers.Tokenizer(models.WordPiece(ids, unk_token="<unk>"))
    elif kind == "word level":
        words = [*_SPECIAL, *sorted(set(TEXT.split())), *more]
        ids = {t: i for i, t in enumerate(words)}
        made = tokenizers.Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    else:
        ids = {t: i for i, t in enumerate([*_SPECIAL, mark, *_LETTERS, *joined, *more])}
        made = tokenizers.Tokenizer(models.BPE(ids, _PAIRS, unk_token="<unk>", fuse_unk=True))
    if kind == "byte-level BPE":
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
    elif kind in ("SentencePiece BPE", "unigram"):
        made.normalizer = normalizers.Replace(" ", mark)
        made.decoder = decoders.Replace(mark, " ")
    else:
        made.pre_tokenizer = pre_tokenizers.Whitespace()
    if kind == "WordPiece":
        made.decoder = decoders.WordPiece()
    return made


def save_tokenizer(
    folder: Path, kind: str = "byte-level BPE", added: Sequence[str] = (), more: Sequence[str] = ()
) -> int:
    """Write a tokenizer with its config; the number of its tokens.

    added: special tokens beside <unk>, <s> and </s>. more: plain tokens of the vocabulary.
    """
    made = _model(kind, more)
    made.add_special_tokens([AddedToken(t, special=True, normalized=False)
                             for t in (*_SPECIAL, *added)])  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>",
              "eos_token": "</s>", "unk_token": "<unk>"}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return int(made.get_vocab_size())
