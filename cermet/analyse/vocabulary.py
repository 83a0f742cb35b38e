"""The tokenizer of a checkpoint beside its embeddings, and the tokenizers of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cermet.anatomy import Anatomy
from cermet.anatomy.layers import text_path
from cermet.checkpoints.carry import chat_template
from cermet.checkpoints.header import read_json
from cermet.checkpoints.tokenizer import Tokenizer, read_tokenizer, vocabulary_files
from cermet.core.errors import FormatError, InputError
from cermet.core.types import Role

__all__ = ["TokenDifference", "Vocabulary", "VocabularyDifference", "differ", "vocabulary_of"]

_ENDS = ("bos", "eos", "pad", "unk", "cls", "sep", "mask")
_SHOWN = 3  # differing ids that are told


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a model and the rows that it has for them.

    Attributes
    ----------
    kind: how text is cut, e.g. `byte-level BPE`; None where no tokenizer could be read.
    tokens: how many there are. size: one more than the largest id, the rows that they need.
    rows: of the embedding; None where there is none. head_rows: of a head that is stored.
    special: what the config and the tokenizer call bos, eos, pad, ... and its tokens.
    added: tokens that were added to the vocabulary, special ones among them.
    chat_template: whether the model has one.
    problem: why there is no tokenizer here, where there is none.
    """

    kind: str | None
    tokens: int | None
    size: int | None
    rows: int | None
    head_rows: int | None
    special: Mapping[str, str]
    added: int
    chat_template: bool
    problem: str | None = None


@dataclass(frozen=True)
class TokenDifference:
    """One id and what it stands for in two tokenizers; None where it stands for nothing."""

    id: int
    first: str | None
    second: str | None


@dataclass(frozen=True)
class VocabularyDifference:
    """The tokenizer of a model beside that of the base.

    Attributes
    ----------
    model: which one. same: whether every token has the same id. kind_differs: whether text is cut
        in another way.
    shared: tokens with the same id in both. moved: tokens of both whose ids differ.
    only_base, only_model: tokens that the other lacks. differences: the first ids that differ.
    problem: why there was nothing to compare.
    """

    model: str
    same: bool | None
    kind_differs: bool = False
    shared: int = 0
    moved: int = 0
    only_base: int = 0
    only_model: int = 0
    differences: tuple[TokenDifference, ...] = ()
    problem: str | None = None


def vocabulary_of(
    folder: Path,
    config: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    anatomy: Anatomy,
) -> tuple[Vocabulary | None, Tokenizer | None]:
    """The vocabulary of the model in a folder, and its tokenizer if it can be read.

    None where there is neither a tokenizer nor an embedding of tokens.
    """
    rows, head = _rows(shapes, anatomy, Role.EMBEDDING), _rows(shapes, anatomy, Role.HEAD)
    tokenizer, problem = None, None
    try:
        tokenizer = read_tokenizer(folder)
    except (InputError, FormatError) as error:
        problem = str(error)
    if not vocabulary_files(folder):
        if rows is None:
            return None, None
        problem = "there is no tokenizer"
    return Vocabulary(
        kind=tokenizer.kind if tokenizer else None,
        tokens=len(tokenizer.ids) if tokenizer else None,
        size=tokenizer.size if tokenizer else None,
        rows=rows,
        head_rows=head,
        special=_special(folder, config, tokenizer),
        added=len(tokenizer.added) if tokenizer else 0,
        chat_template=_has_template(folder),
        problem=problem,
    ), tokenizer


def _rows(shapes: Mapping[str, tuple[int, ...]], anatomy: Anatomy, role: Role) -> int | None:
    """Rows of the largest matrix of a role that is tied to the vocabulary."""
    for group in anatomy.ties if role is Role.EMBEDDING else ():
        if group[0] in shapes:
            return shapes[group[0]][0]
    found = [
        shapes[name][0]
        for name, place in anatomy.places.items()
        if place.role is role and not place.bias and len(shapes[name]) == 2 and not place.stack
    ]
    return max(found, default=None)


def _has_template(folder: Path) -> bool:
    try:
        return chat_template("auto", [folder]) is not None
    except FormatError:
        return False


def _special(
    folder: Path, config: Mapping[str, Any], tokenizer: Tokenizer | None
) -> dict[str, str]:
    """What begins, ends and fills: the token's text where it is known, else its id."""
    told: dict[str, str] = {}
    inner: Any = config
    for step in text_path(config):
        inner = inner[step]
    texts = tokenizer.by_id() if tokenizer else []
    for end in _ENDS:
        index = inner.get(f"{end}_token_id", config.get(f"{end}_token_id"))
        numbers = index if isinstance(index, list) else [index]
        named = [_token(texts, i) for i in numbers if isinstance(i, int)]
        if named:
            told[end] = ", ".join(named)
    path = folder / "tokenizer_config.json"
    try:
        own = read_json(path, "the tokenizer's config") if path.is_file() else {}
    except FormatError:
        own = {}
    for end in _ENDS:
        token = own.get(f"{end}_token")
        text = token.get("content") if isinstance(token, Mapping) else token
        if isinstance(text, str) and end not in told:
            index = tokenizer.ids.get(text) if tokenizer else None
            told[end] = text if index is None else f"{text} ({index})"
    return told


def _token(texts: Sequence[str | None], index: int) -> str:
    text = texts[index] if 0 <= index < len(texts) else None
    return str(index) if text is None else f"{text} ({index})"


def differ(
    model: str, base: Tokenizer | None, other: Tokenizer | None, problem: str | None
) -> VocabularyDifference:
    """How the tokenizer of a model differs from the base's; `problem` where one is missing."""
    if base is None or other is None:
        return VocabularyDifference(model, None, problem=problem)
    shared = sum(other.ids.get(token) == index for token, index in base.ids.items())
    both = base.ids.keys() & other.ids.keys()
    first, second = base.by_id(), other.by_id()
    length = max(len(first), len(second))
    first += [None] * (length - len(first))
    second += [None] * (length - len(second))
    found = [i for i in range(length) if first[i] != second[i]] if base.ids != other.ids else []
    return VocabularyDifference(
        model=model,
        same=base.ids == other.ids,
        kind_differs=base.kind != other.kind,
        shared=shared,
        moved=len(both) - shared,
        only_base=len(base.ids) - len(both),
        only_model=len(other.ids) - len(both),
        differences=tuple(TokenDifference(i, first[i], second[i]) for i in found[:_SHOWN]),
    )
