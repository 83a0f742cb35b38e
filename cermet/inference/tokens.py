"""Texts as rows of tokens, and rows as batches of bounded size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int

from cermet.core.fingerprint import sha256_hex
from cermet.inference.loading import load_tokenizer, tokenizer_in

__all__ = ["Row", "Tokenizer", "batches", "marked", "padded", "tokenizer_digest"]

Row = Sequence[int]
"""The tokens of one text."""


def tokenizer_digest(folder: Path) -> str:
    """Of the files of a folder's tokenizer; InputError where there are none."""
    files = tokenizer_in(folder)
    return sha256_hex("\n".join(f"{f.name} {sha256_hex(f.read_bytes())}" for f in files).encode())


class Tokenizer:
    """The tokenizer of a folder.

    begin: the token that a text begins with, None where the tokenizer has none. end: the token
    that ends a text, or None.

    Raises what `load_tokenizer` raises.
    """

    def __init__(self, folder: Path) -> None:
        self.digest = tokenizer_digest(folder)
        self._own: Any = load_tokenizer(folder)
        self.begin: int | None = self._own.bos_token_id
        self.end: int | None = self._own.eos_token_id
        self.pad: int | None = self._own.pad_token_id
        self.longest = int(min(self._own.model_max_length, 1 << 30))

    def framed(self, texts: Sequence[str], longest: int) -> list[Row]:
        """With the tokens that the tokenizer itself puts around a text, cut at `longest`."""
        if not texts:
            return []
        found = self._own(list(texts), truncation=True, max_length=min(longest, self.longest))
        return list(found["input_ids"])

    def plain(self, texts: Sequence[str]) -> list[Row]:
        """The tokens of the texts and nothing around them."""
        with_none = {"add_special_tokens": False, "verbose": False}
        return list(self._own(list(texts), **with_none)["input_ids"]) if texts else []

    def text(self, row: Row) -> str:
        """What some tokens spell, special ones left out."""
        spelled = self._own.decode(
            row, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return str(spelled)

    def spelled_with(self, sign: str) -> list[int]:
        """Which tokens of the vocabulary are spelled with a sign."""
        single = [[i] for i in range(len(self._own))]
        texts = self._own.batch_decode(single, clean_up_tokenization_spaces=False)
        return [i for i, text in enumerate(texts) if sign in text]


def batches(lengths: Sequence[int], budget: int, most: int) -> list[list[int]]:
    """Numbers of rows of like length, the longest first.

    A batch holds at most `budget` tokens once it is padded, or one row, and at most `most` rows.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    found: list[list[int]] = []
    for i in order:
        room = min(most, budget // max(1, lengths[found[-1][0]])) if found else 0
        if found and len(found[-1]) < room:
            found[-1].append(i)
        else:
            found.append([i])
    return found


def padded(
    rows: Sequence[Row], filler: int, *, left: bool = False
) -> Int[torch.Tensor, "rows tokens"]:
    """One tensor of some rows, filled up on one side."""
    width = max(map(len, rows))
    full = [[filler] * (width - len(r)) + list(r) if left else
            list(r) + [filler] * (width - len(r)) for r in rows]  # fmt: skip
    return torch.tensor(full, dtype=torch.long).view(len(rows), width)


def marked(rows: Sequence[Row], *, left: bool = False) -> Int[torch.Tensor, "rows tokens"]:
    """1 where `padded` of the same rows has a token of theirs, and 0 where it is filled up."""
    return padded([[1] * len(row) for row in rows], 0, left=left)
