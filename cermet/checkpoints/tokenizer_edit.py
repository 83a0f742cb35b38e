"""A tokenizer with other tokens: tokenizer.json edited, files that no longer agree left out.

The merges of the tokenizer stay as they are, so text is cut as before; what is added to its
plain vocabulary must not change that, where the kind of the tokenizer allows it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from cermet.checkpoints.header import read_json
from cermet.checkpoints.tokenizer import Tokenizer, vocabulary_files
from cermet.core.errors import FormatError, InputError

__all__ = ["edit_tokenizer", "write_tokenizer"]

_WHOLE = "tokenizer.json"
_CONFIG = "tokenizer_config.json"
_SPECIAL = "special_tokens_map.json"
_DECODER = "added_tokens_decoder"


def edit_tokenizer(
    owner: Tokenizer, tokens: Sequence[str | None], added: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """The content of tokenizer.json for a vocabulary that begins with the owner's.

    Parameters
    ----------
    owner: the tokenizer that is changed. Its tokens that are not wanted are left out.
    tokens: the token of every id.
    added: tokens, new ones or the owner's, that are looked for before text is cut, as in
        tokenizer.json. New tokens that are not among them join the plain vocabulary.

    Raises InputError where the owner's folder has no tokenizer.json, FormatError where the
    tokenizers library gives the tokens other ids.
    """
    if not owner.data:
        raise InputError(
            f"'{owner.folder}' holds its tokenizer without tokenizer.json, so no tokens can be "
            "added; write it: AutoTokenizer.from_pretrained(...).save_pretrained(...)."
        )
    ids = {token: i for i, token in enumerate(tokens) if token is not None}
    entries = {**owner.added, **added}
    listed = [{**entries[t], "id": i} for t, i in ids.items() if t in entries]
    plain = [t for t in ids if t not in owner.ids and t not in added]
    model = dict(owner.data["model"])
    stored = {p[0] for p in model["vocab"]} if owner.scores else set(model["vocab"])
    # the library counts on from the plain vocabulary, so what stands between has to be in it
    whole = bool(plain) or None in tokens
    wanted = {t: i for t, i in ids.items() if whole or t in stored}
    model["vocab"] = _scored(owner, wanted, tokens) if owner.scores else wanted
    if owner.merges and not owner.ids.keys() <= ids.keys():
        model["merges"] = [[a, b] for a, b in owner.merges if {a, b, a + b} <= wanted.keys()]
    data = {**owner.data, "added_tokens": listed, "model": model}
    _check(data, ids, owner.folder)
    return data


def _scored(
    owner: Tokenizer, wanted: Mapping[str, int], tokens: Sequence[str | None]
) -> list[list[Any]]:
    """The vocabulary of a unigram tokenizer, in which a token's id is its position.

    A new token scores less than any way to spell it with the tokens that were there, so text
    that these can spell is cut as before.
    """
    low = min((-1.0, *owner.scores.values()))
    rows = []
    for i, token in enumerate(tokens[: max(wanted.values(), default=-1) + 1]):
        text = f"<unused {i}>" if token is None else token
        rows.append([text, owner.scores.get(text, low * (len(text) + 1))])
    return rows


def _check(data: Mapping[str, Any], ids: Mapping[str, int], folder: Path) -> None:
    """Refuse a tokenizer that the library that loads it reads in another way."""
    import tokenizers

    try:
        made = tokenizers.Tokenizer.from_str(json.dumps(data))
    except Exception as error:  # the library raises plain Exception
        raise FormatError(
            f"'{folder / _WHOLE}' cannot be changed to the wanted tokens ({str(error)[:200]})."
        ) from error
    found = made.get_vocab(with_added_tokens=True)
    wrong = next((t for t in ids if found.get(t) != ids[t]), None)
    if wrong is not None:
        raise FormatError(
            f"'{folder / _WHOLE}' cannot be changed: the token '{wrong[:80]}' has to have the id "
            f"{ids[wrong]}, and would be loaded with {found.get(wrong)}."
        )


def write_tokenizer(data: Mapping[str, Any], left_out: Collection[str], out: Path) -> None:
    """Write tokenizer.json into a folder that holds the owner's tokenizer files.

    Files that list another vocabulary are removed, and what the tokenizer's configs say of its
    tokens is corrected. left_out: tokens of the owner that the new vocabulary does not have.
    """
    for file in vocabulary_files(out):
        file.unlink()
    (out / _WHOLE).write_text(json.dumps(data, ensure_ascii=False), "utf-8")
    for name in (_CONFIG, _SPECIAL):
        path = out / name
        if not path.is_file():
            continue
        config = read_json(path, "the tokenizer's config")
        kept = {k: v for k, v in config.items() if _content(v) not in left_out}
        if _DECODER in kept:
            kept[_DECODER] = {
                str(entry["id"]): {k: v for k, v in entry.items() if k != "id"}
                for entry in data["added_tokens"]
            }
        path.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _content(value: Any) -> str | None:
    """The token that a field of a config names, if it names one."""
    named = value.get("content") if isinstance(value, Mapping) else value
    return named if isinstance(named, str) else None
