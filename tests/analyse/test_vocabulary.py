"""Tokenizers beside embeddings, and beside each other."""

from __future__ import annotations

import json
from pathlib import Path

import cermet
from cermet.analyse.vocabulary import TokenDifference, differ
from cermet.checkpoints.tokenizer import Tokenizer, read_tokenizer
from tests.learn.pools import WORDS, write_tokenizer
from tests.recipes.pools import save_llama


def _tokenizer(ids: dict[str, int], kind: str = "word level") -> Tokenizer:
    return Tokenizer(Path(), kind, ids)  # type: ignore[arg-type]


def test_tokens_rows_and_special_ones(tmp_path: Path) -> None:
    model = Path(save_llama(tmp_path / "a", pad_token_id=1, eos_token_id=[2, 3]))
    write_tokenizer(model)
    (model / "chat_template.jinja").write_text("{{ messages }}")
    found = cermet.inspect(model, headers=True).vocabulary
    assert found is not None
    assert (found.kind, found.tokens, found.size, found.rows) == ("word level", 14, 14, 40)
    assert (found.head_rows, found.added, found.chat_template) == (40, 2, True)
    assert found.special["pad"] == "[PAD] (1)"
    assert found.special["eos"] == "the (2), cat (3)"
    assert found.special["unk"] == "[UNK] (0)"


def test_a_tokenizer_with_more_ids_than_rows_is_a_finding(tmp_path: Path) -> None:
    model = Path(save_llama(tmp_path / "a"))
    write_tokenizer(model, ["[UNK]", "[PAD]", *(f"w{i}" for i in range(60))])
    (found,) = cermet.inspect(model, headers=True).findings
    assert "ids up to 61, but the embedding has 40 rows" in found


def test_a_model_without_a_tokenizer_or_with_a_damaged_one(tmp_path: Path) -> None:
    model = Path(save_llama(tmp_path / "a"))
    found = cermet.inspect(model, headers=True).vocabulary
    assert found is not None
    assert (found.kind, found.rows, found.problem) == (None, 40, "there is no tokenizer")
    (model / "tokenizer.json").write_text("{")
    damaged = cermet.inspect(model, headers=True).vocabulary
    assert damaged is not None
    assert "not valid JSON" in (damaged.problem or "")


def test_equal_tokenizers(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    one = read_tokenizer(tmp_path)
    found = differ("b", one, read_tokenizer(tmp_path), None)
    assert (found.same, found.shared, found.differences) == (True, len(WORDS), ())


def test_moved_missing_and_new_tokens_are_told_apart() -> None:
    base = _tokenizer({"a": 0, "b": 1, "c": 2, "d": 3})
    other = _tokenizer({"a": 0, "c": 1, "b": 2, "e": 3, "f": 4}, "WordPiece")
    found = differ("b", base, other, None)
    assert (found.same, found.kind_differs) == (False, True)
    assert (found.shared, found.moved, found.only_base, found.only_model) == (1, 2, 1, 2)
    assert found.differences == (
        TokenDifference(1, "b", "c"), TokenDifference(2, "c", "b"), TokenDifference(3, "d", "e"),
    )  # fmt: skip


def test_a_longer_vocabulary_differs_where_the_other_ends() -> None:
    found = differ("b", _tokenizer({"a": 0}), _tokenizer({"a": 0, "b": 1}), None)
    assert found.differences == (TokenDifference(1, None, "b"),)


def test_nothing_to_compare_says_why() -> None:
    assert differ("b", None, _tokenizer({"a": 0}), "a: gone").problem == "a: gone"


def test_text_parts_of_a_config_name_special_tokens(tmp_path: Path) -> None:
    model = Path(save_llama(tmp_path / "a"))
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(
        json.dumps({"model_type": "llava", "text_config": {**config, "bos_token_id": 5}})
    )
    found = cermet.inspect(model, headers=True).vocabulary
    assert found is not None
    assert found.special["bos"] == "5"
