"""Which tokens of two tokenizers are the same token, whatever each of them writes for a blank."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cermet.checkpoints.header import read_json
from cermet.checkpoints.tokenizer import Tokenizer

__all__ = ["shared_tokens"]

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_BLANK = "▁"
_PIECE = "##"
_ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_SAYS_SPECIAL = ("tokenizer_config.json", "special_tokens_map.json")


def shared_tokens(model: Tokenizer, donor: Tokenizer) -> NDArray[np.int64]:
    """For each id of the donor the id of the same token in the model, -1 where it has none.

    Tokens are the same where they stand for the same text, or, of special tokens, where both
    are written alike or have the same part (beginning, end, padding and so on). The form in which
    tokenizers of different kinds write a blank or a byte is no difference. [donor.size]
    """
    found = np.full(donor.size, -1, dtype=np.int64)
    alike = model.kind == donor.kind
    texts = {} if alike else _by_text(model)
    for token, index in donor.ids.items():
        both_added = token in model.added and token in donor.added
        if token in model.ids and (alike or both_added):
            found[index] = model.ids[token]
        elif not alike and token not in donor.added:
            found[index] = texts.get(_text(donor, token), -1)
    own, theirs = _parts(model), _parts(donor)
    for role in _ROLES:
        if role in own and role in theirs and found[donor.ids[theirs[role]]] < 0:
            found[donor.ids[theirs[role]]] = model.ids[own[role]]
    return found


def _by_text(tokenizer: Tokenizer) -> dict[bytes, int]:
    """Ids of plain tokens by the text that they stand for; of equal ones the first.

    A piece of text goes before a token that stands for one byte.
    """
    found: dict[bytes, int] = {}
    plain = [(t, i) for t, i in tokenizer.ids.items() if t not in tokenizer.added]
    for token, index in sorted(plain, key=lambda pair: (_is_byte(tokenizer, pair[0]), pair[1])):
        found.setdefault(_text(tokenizer, token), index)
    return found


def _is_byte(tokenizer: Tokenizer, token: str) -> bool:
    return tokenizer.kind in ("SentencePiece BPE", "unigram") and bool(_BYTE.fullmatch(token))


def _text(tokenizer: Tokenizer, token: str) -> bytes:
    """The bytes of text that a plain token stands for, with the blank before a word."""
    if tokenizer.kind == "byte-level BPE":
        letters = _letters()
        if all(letter in letters for letter in token):
            return bytes(letters[letter] for letter in token)
        return token.encode()
    if tokenizer.kind in ("SentencePiece BPE", "unigram"):
        byte = _BYTE.fullmatch(token)
        return bytes([int(byte[1], 16)]) if byte else token.replace(_BLANK, " ").encode()
    if token.startswith(_PIECE) and tokenizer.kind == "WordPiece":
        return token.removeprefix(_PIECE).encode()
    return (f" {token}" if token[:1].isalnum() else token).encode()


@cache
def _letters() -> Mapping[str, int]:
    """The letter that byte-level BPE writes for each byte -> that byte.

    Printable bytes of Latin-1 stand for themselves, the others follow from 256 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    found = {chr(byte): byte for byte in printable}
    return {**found, **{chr(256 + i): byte for i, byte in enumerate(others)}}


def _parts(tokenizer: Tokenizer) -> dict[str, str]:
    """The token that has each part, as far as the tokenizer has it."""
    found: dict[str, str] = {}
    for name in _SAYS_SPECIAL:
        for role in _ROLES:
            token = _named(tokenizer.folder / name, f"{role}_token")
            if token is not None and token in tokenizer.ids:
                found.setdefault(role, token)
    return found


def _named(path: Path, key: str) -> str | None:
    if not path.is_file():
        return None
    value = read_json(path, "the tokenizer's config").get(key)
    value = value.get("content") if isinstance(value, dict) else value
    return value if isinstance(value, str) else None
