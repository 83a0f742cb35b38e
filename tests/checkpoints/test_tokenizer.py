"""Reading the tokenizer of a folder, whatever form it has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers

from cermet.checkpoints.tokenizer import read_tokenizer, vocabulary_files
from cermet.core.errors import FormatError, InputError
from tests.checkpoints.tokenizers import KINDS, save_tokenizer


@pytest.mark.parametrize("kind", KINDS)
def test_ids_and_kind_are_what_the_library_says(kind: str, tmp_path: Path) -> None:
    save_tokenizer(tmp_path, kind, added=["<|im_start|>"])
    found = read_tokenizer(tmp_path)
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert found.kind == kind
    assert found.ids == library.get_vocab(with_added_tokens=True)
    assert found.special == {"<unk>", "<s>", "</s>", "<|im_start|>"}
    assert found.size == library.get_vocab_size() == len(found.by_id())
    assert found.by_id()[-1] == "<|im_start|>"
    assert bool(found.merges) == kind.endswith("BPE")
    assert bool(found.scores) == (kind == "unigram")


def test_merges_may_be_texts(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    data = json.loads((tmp_path / "tokenizer.json").read_text())
    before = read_tokenizer(tmp_path).merges
    data["model"]["merges"] = [" ".join(pair) for pair in data["model"]["merges"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    assert read_tokenizer(tmp_path).merges == before == [("t", "h"), ("th", "e"), ("a", "t")]


def test_tokens_that_only_other_files_add(tmp_path: Path) -> None:
    size = save_tokenizer(tmp_path)
    config = {"added_tokens_decoder": {
        str(size): {"content": "<pad>", "special": True},
        "0": {"content": "<taken>", "special": True},
    }}  # fmt: skip
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<|x|>": size + 1, "<s>": 1}))
    found = read_tokenizer(tmp_path)
    assert found.ids["<pad>"] == size
    assert found.ids["<|x|>"] == size + 1
    assert "<taken>" not in found.ids
    assert "<pad>" in found.special
    assert "<|x|>" not in found.special


def test_older_forms(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "b": 1, "ab": 2}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    found = read_tokenizer(tmp_path)
    assert (found.kind, found.size, found.merges) == ("byte-level BPE", 3, [("a", "b")])
    words = tmp_path / "words"
    words.mkdir()
    (words / "vocab.txt").write_text("[UNK]\nthe\n##s\n")
    found = read_tokenizer(words)
    assert (found.kind, found.ids) == ("WordPiece", {"[UNK]": 0, "the": 1, "##s": 2})
    assert [p.name for p in vocabulary_files(tmp_path)] == ["vocab.json", "merges.txt"]


def test_forms_that_are_not_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no tokenizer"):
        read_tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"\x0a")
    with pytest.raises(InputError, match=r"only as tokenizer\.model, which is not read"):
        read_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"of": "a"}', "has no 'model'"),
        ('{"model": {"type": "BPE"}}', "has no vocabulary"),
        ('{"model": {"type": "Odd", "vocab": {}}}', "kind 'Odd' is not known"),
        ('{"model": {"type": "BPE", "vocab": {"a": -1}}}', "has the id -1"),
        ('{"model": {"type": "BPE", "vocab": {"a": "0"}}}', "has the id '0'"),
        ('{"model": {"type": "BPE", "vocab": {"a": 0, "b": 0}}}', "both have the id 0"),
        ('{"model": {"type": "Unigram", "vocab": [["a"]]}}', "not a token with its score"),
        ('{"model": {"vocab": {}, "merges": ["a"]}}', "not a pair of tokens"),
        ('{"model": {"vocab": {}}, "added_tokens": [{"id": 0}]}', "not an added token"),
        ('{"model": {"vocab": {}}, "added_tokens": [{"content": "x"}]}', "has no id"),
        ("[1]", "not a JSON object"),
    ],
)
def test_damaged(content: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(FormatError, match=reason):
        read_tokenizer(tmp_path)
