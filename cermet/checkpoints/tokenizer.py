"""The tokenizer of a model's folder as plain data: its tokens, their ids, what kind it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cermet.checkpoints.header import read_json
from cermet.core.errors import FormatError, InputError

__all__ = ["Kind", "Tokenizer", "read_tokenizer", "vocabulary_files"]

Kind = Literal["byte-level BPE", "SentencePiece BPE", "unigram", "WordPiece", "word level"]
"""How a tokenizer cuts text into the tokens of its vocabulary."""

_WHOLE = "tokenizer.json"
_CONFIG = "tokenizer_config.json"
_ADDED = "added_tokens.json"
_VOCABULARIES = (_WHOLE, "tokenizer.model", "vocab.json", "merges.txt", "vocab.txt",
                 "spiece.model", "sentencepiece.bpe.model", _ADDED)  # fmt: skip
_UNREAD = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "tiktoken.model",
           "qwen.tiktoken", "tekken.json")  # fmt: skip
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_LARGEST_ID = 1 << 31


@dataclass(frozen=True)
class Tokenizer:
    """The tokenizer of a model.

    Attributes
    ----------
    folder: where it was read.
    kind: how it cuts text.
    ids: the id of every token, those that were added included.
    added: the tokens that are looked for before text is cut, each as in tokenizer.json:
        id, content, single_word, lstrip, rstrip, normalized, special.
    merges: of BPE, the pairs that are joined, the first of them first.
    scores: of unigram, the logarithm of each token's share.
    data: the content of tokenizer.json; empty where the folder holds an older form.
    """

    folder: Path
    kind: Kind
    ids: Mapping[str, int]
    added: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    merges: Sequence[tuple[str, str]] = ()
    scores: Mapping[str, float] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """One more than the largest id: the rows that an embedding has to have."""
        return max(self.ids.values(), default=-1) + 1

    @property
    def special(self) -> frozenset[str]:
        """The tokens that stand for no text."""
        return frozenset(token for token, entry in self.added.items() if entry["special"])

    def by_id(self) -> list[str | None]:
        """The token of every id below `size`; None where an id has none."""
        found: list[str | None] = [None] * self.size
        for token, index in self.ids.items():
            found[index] = token
        return found


def vocabulary_files(folder: Path) -> list[Path]:
    """The files of a folder that say which token has which id."""
    found = [folder / name for name in (*_VOCABULARIES, *_UNREAD) if (folder / name).is_file()]
    return list(dict.fromkeys(found))


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer in a folder: tokenizer.json, else vocab.json with merges.txt, else vocab.txt.

    Tokens that only tokenizer_config.json or added_tokens.json adds are among its tokens. Raises
    FormatError for a file that is damaged, InputError where there is no tokenizer, or only one
    in a form that is not read (SentencePiece's and tiktoken's own files).
    """
    if (folder / _WHOLE).is_file():
        found = _from_whole(folder, read_json(folder / _WHOLE, "the tokenizer"))
    elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        vocabulary = read_json(folder / "vocab.json", "the vocabulary")
        ids = _checked(vocabulary, folder / "vocab.json")
        found = Tokenizer(folder, "byte-level BPE", ids, merges=_merges_text(folder))
    elif (folder / "vocab.txt").is_file():
        lines = _lines(folder / "vocab.txt")
        words = {word: i for i, word in enumerate(lines)}
        found = Tokenizer(folder, "WordPiece", _checked(words, folder / "vocab.txt"))
    else:
        held = next((name for name in _UNREAD if (folder / name).is_file()), None)
        if held is None:
            raise InputError(f"'{folder}' holds no tokenizer.")
        raise InputError(
            f"'{folder}' holds its tokenizer only as {held}, which is not read; write "
            "tokenizer.json beside it: AutoTokenizer.from_pretrained(...).save_pretrained(...)."
        )
    return _with_later(found)


# -- tokenizer.json ---------------------------------------------------------------


def _from_whole(folder: Path, data: Mapping[str, Any]) -> Tokenizer:
    path = folder / _WHOLE
    model = data.get("model")
    if not isinstance(model, Mapping):
        raise FormatError(f"'{path}' is not a tokenizer: it has no 'model'.")
    vocabulary = model.get("vocab")
    scores: dict[str, float] = {}
    if isinstance(vocabulary, list):
        scores = _scored(vocabulary, path)
        vocabulary = {pair[0]: i for i, pair in enumerate(vocabulary)}
    if not isinstance(vocabulary, Mapping):
        raise FormatError(f"'{path}': its model has no vocabulary.")
    added = _entries(data.get("added_tokens") or [], path)
    ids = {**vocabulary, **{token: entry["id"] for token, entry in added.items()}}
    kind = _kind(data, model, path)
    merges = _merges(model.get("merges") or [], path) if kind.endswith("BPE") else ()
    return Tokenizer(folder, kind, _checked(ids, path), added, merges, scores, data)


def _kind(data: Mapping[str, Any], model: Mapping[str, Any], path: Path) -> Kind:
    named = model.get("type")
    if named is None:  # files of early releases do not say it
        named = "BPE" if "merges" in model else "WordPiece"
        named = "Unigram" if isinstance(model.get("vocab"), list) else named
    if named == "BPE":
        parts = (data.get("pre_tokenizer"), data.get("decoder"))
        return "byte-level BPE" if any(map(_byte_level, parts)) else "SentencePiece BPE"
    if named == "Unigram":
        return "unigram"
    if named == "WordPiece":
        return "WordPiece"
    if named == "WordLevel":
        return "word level"
    raise FormatError(f"'{path}': a tokenizer of the kind '{named}' is not known.")


def _byte_level(part: Any) -> bool:
    """Whether a part of a tokenizer, or one inside it, writes bytes as letters."""
    if isinstance(part, Mapping):
        return part.get("type") == "ByteLevel" or any(map(_byte_level, part.values()))
    return isinstance(part, list) and any(map(_byte_level, part))


def _scored(vocabulary: Sequence[Any], path: Path) -> dict[str, float]:
    for pair in vocabulary:
        sound = isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)
        if not sound or not isinstance(pair[1], int | float):
            raise FormatError(f"'{path}': {str(pair)[:80]} is not a token with its score.")
    return {token: float(score) for token, score in vocabulary}


def _entries(listed: Any, path: Path) -> dict[str, dict[str, Any]]:
    """The added tokens by what they say, in the order of their ids."""
    found = []
    for entry in listed if isinstance(listed, list) else [listed]:
        if not isinstance(entry, Mapping) or not isinstance(entry.get("content"), str):
            raise FormatError(f"'{path}': {str(entry)[:80]} is not an added token.")
        if not _is_id(entry.get("id")):
            raise FormatError(f"'{path}': the added token '{entry['content']}' has no id.")
        flags = {flag: bool(entry.get(flag, False)) for flag in _FLAGS}
        found.append({"id": entry["id"], "content": entry["content"], **flags})
    found.sort(key=lambda entry: int(entry["id"]))
    return {entry["content"]: entry for entry in found}


def _merges(listed: Any, path: Path) -> list[tuple[str, str]]:
    """The merges, which older files write as one text with a blank."""
    found = []
    for merge in listed if isinstance(listed, list) else [listed]:
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or len(pair) != 2 or not all(map(_is_text, pair)):
            raise FormatError(f"'{path}': {str(merge)[:80]} is not a pair of tokens to merge.")
        found.append((pair[0], pair[1]))
    return found


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _LARGEST_ID


def _checked(ids: Mapping[str, Any], path: Path) -> dict[str, int]:
    """The ids of a vocabulary, each found to be a number that no other token has."""
    given = list(ids.values())
    if set(map(type, given)) <= {int} and len(set(given)) == len(given):
        low, high = min(given, default=0), max(given, default=0)
        if low >= 0 and high < _LARGEST_ID:
            return dict(ids)
    owner: dict[int, str] = {}
    for token, index in ids.items():
        if not _is_id(index):
            raise FormatError(f"'{path}': the token '{token[:80]}' has the id {index!r:.80}.")
        if index in owner:
            raise FormatError(
                f"'{path}': the tokens '{owner[index][:80]}' and '{token[:80]}' both have the id "
                f"{index}."
            )
        owner[index] = token
    return dict(ids)


# -- what stands in other files ---------------------------------------------------


def _lines(path: Path) -> list[str]:
    """Lines that end as the writer ended them: a token may hold every other kind of break."""
    try:
        return path.read_text("utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise FormatError(f"'{path}' is not UTF-8 text.") from error


def _merges_text(folder: Path) -> list[tuple[str, str]]:
    path = folder / "merges.txt"
    lines = [line for line in _lines(path) if line and not line.startswith("#version")]
    return _merges(lines, path)


def _later(folder: Path) -> Iterable[dict[str, Any]]:
    """The tokens that a tokenizer's config and added_tokens.json add when it is loaded."""
    config = folder / _CONFIG
    if config.is_file():
        named = read_json(config, "the tokenizer's config").get("added_tokens_decoder") or {}
        for index, entry in named.items() if isinstance(named, Mapping) else ():
            if str(index).isdecimal() and isinstance(entry, Mapping):
                yield {**entry, "id": int(index)}
    if (folder / _ADDED).is_file():
        for token, index in read_json(folder / _ADDED, "the added tokens").items():
            yield {"content": token, "id": index, "normalized": True}


def _with_later(found: Tokenizer) -> Tokenizer:
    """With the tokens that other files add; one whose id is taken is not."""
    taken = {*found.ids.values()}
    added = dict(found.added)
    for token, entry in _entries(list(_later(found.folder)), found.folder / _CONFIG).items():
        known = found.ids.get(token)
        if known is None and entry["id"] not in taken:
            taken.add(entry["id"])
            added[token] = entry
        elif known == entry["id"] and not found.data:
            added[token] = entry  # the older forms keep what is special here alone
    ids = {**found.ids, **{token: entry["id"] for token, entry in added.items()}}
    return Tokenizer(found.folder, found.kind, ids, added, found.merges, found.scores, found.data)
