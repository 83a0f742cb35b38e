"""The same token in two tokenizers: by its name, its text, or its part."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cermet.checkpoints.shared_tokens import shared_tokens
from cermet.checkpoints.tokenizer import Kind, Tokenizer, read_tokenizer
from tests.checkpoints.tokenizers import KINDS, save_tokenizer


def _tokenizer(
    folder: Path, kind: Kind, tokens: list[str], special: tuple[str, ...] = (), **parts: Any
) -> Tokenizer:
    folder.mkdir(parents=True, exist_ok=True)
    if parts:
        (folder / "tokenizer_config.json").write_text(json.dumps(parts))
    ids = {token: i for i, token in enumerate(tokens)}
    added = {t: {"id": ids[t], "content": t, "special": True} for t in special}
    return Tokenizer(folder, kind, ids, added)


def _shared(model: Tokenizer, donor: Tokenizer) -> Mapping[str, str]:
    """Tokens of the donor and what they are in the model."""
    own, theirs = model.by_id(), donor.by_id()
    pairs = enumerate(shared_tokens(model, donor).tolist())
    return {str(theirs[i]): str(own[j]) for i, j in pairs if j >= 0}


@pytest.mark.parametrize("kind", KINDS)
def test_a_tokenizer_shares_all_with_itself(kind: str, tmp_path: Path) -> None:
    size = save_tokenizer(tmp_path, kind, added=("<x>",))
    found = read_tokenizer(tmp_path)
    assert shared_tokens(found, found).tolist() == list(range(size))


def test_one_kind_goes_by_the_name(tmp_path: Path) -> None:
    one = _tokenizer(tmp_path / "1", "byte-level BPE", ["Ġa", "a", "é", "b"])
    two = _tokenizer(tmp_path / "2", "byte-level BPE", ["a", "Ġa", "Ã©"])
    assert _shared(one, two) == {"a": "a", "Ġa": "Ġa"}


def test_blanks_and_letters_are_the_same_text(tmp_path: Path) -> None:
    bytes_ = _tokenizer(tmp_path / "1", "byte-level BPE", ["Ġa", "ĠÃ©t", "Ċ", "a", "ĠĠ", "x"])
    pieces = _tokenizer(tmp_path / "2", "SentencePiece BPE", ["▁a", "▁ét", "<0x0A>", "▁▁", "y"])
    assert _shared(bytes_, pieces) == {"▁a": "Ġa", "▁ét": "ĠÃ©t", "<0x0A>": "Ċ", "▁▁": "ĠĠ"}


def test_a_piece_goes_before_its_byte(tmp_path: Path) -> None:
    pieces = _tokenizer(tmp_path / "1", "SentencePiece BPE", ["<0x61>", "a", "<0x62>"])
    bytes_ = _tokenizer(tmp_path / "2", "byte-level BPE", ["a", "b"])
    assert _shared(pieces, bytes_) == {"a": "a", "b": "<0x62>"}


def test_half_a_letter_is_a_byte(tmp_path: Path) -> None:
    """No text, and still the same bytes."""
    pieces = _tokenizer(tmp_path / "1", "unigram", ["<0xC3>"])
    bytes_ = _tokenizer(tmp_path / "2", "byte-level BPE", ["Ã"])
    assert _shared(pieces, bytes_) == {"Ã": "<0xC3>"}


def test_word_pieces(tmp_path: Path) -> None:
    words = _tokenizer(tmp_path / "1", "WordPiece", ["the", "##ing", ",", "[CLS]"], ("[CLS]",))
    bytes_ = _tokenizer(tmp_path / "2", "byte-level BPE", ["Ġthe", "the", "ing", "Ġing", ","])
    assert _shared(words, bytes_) == {"Ġthe": "the", "ing": "##ing", ",": ","}


def test_special_tokens_never_stand_for_text(tmp_path: Path) -> None:
    one = _tokenizer(tmp_path / "1", "unigram", ["<s>", "<x>"], ("<x>",))
    two = _tokenizer(tmp_path / "2", "byte-level BPE", ["<s>", "<x>"], ("<s>",))
    assert _shared(one, two) == {}


def test_special_tokens_have_parts(tmp_path: Path) -> None:
    one = _tokenizer(
        tmp_path / "1", "unigram", ["<s>", "</s>", "<pad>"], ("<s>", "</s>", "<pad>"),
        bos_token="<s>", eos_token={"content": "</s>"}, pad_token="<pad>", mask_token=None,
    )  # fmt: skip
    two = _tokenizer(
        tmp_path / "2", "byte-level BPE", ["<|b|>", "<|e|>"], ("<|b|>", "<|e|>"),
        bos_token="<|b|>", eos_token="<|e|>", pad_token="<|e|>", mask_token="nowhere",
    )  # fmt: skip
    assert _shared(one, two) == {"<|b|>": "<s>", "<|e|>": "</s>"}


def test_a_name_goes_before_a_part(tmp_path: Path) -> None:
    one = _tokenizer(
        tmp_path / "1", "unigram", ["<a>", "<b>"], ("<a>", "<b>"), eos_token="<a>", pad_token="<b>"
    )
    two = _tokenizer(tmp_path / "2", "unigram", ["<b>"], ("<b>",), eos_token="<b>")
    assert _shared(one, two) == {"<b>": "<b>"}
