"""Which tokens an output has: those of one model, or of all, and what a recipe adds to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cermet.anatomy import TokenTensors
from cermet.checkpoints.reader import Checkpoint
from cermet.checkpoints.tokenizer import Tokenizer
from cermet.core.errors import MismatchError
from cermet.recipes.schema import ModelRef, Vocabulary

__all__ = ["Member", "Target", "first_difference", "refuse_odd", "target_of"]

_SHOWN = 5  # tokens in a message


@dataclass(frozen=True)
class Member:
    """A model of a recipe with its tokenizer.

    tensors: those with a row for each token. ties: groups of its tensors that share storage,
    a stored one first.
    """

    reference: ModelRef
    checkpoint: Checkpoint
    tokenizer: Tokenizer
    tensors: TokenTensors
    ties: tuple[tuple[str, ...], ...]

    @cached_property
    def used(self) -> tuple[str, ...]:
        """The tokens that have a row, by id."""
        by_id = self.tokenizer.by_id()[: self.tensors.rows]
        return tuple(token for token in by_id if token is not None)

    def stored(self, name: str) -> str | None:
        """The name under which this model stores a tensor of another, if it does."""
        if name in self.checkpoint.tensors:
            return name
        tied = next((group for group in self.ties if name in group), ())
        return next((other for other in tied if other in self.checkpoint.tensors), None)

    def counterpart(self, name: str) -> str | None:
        """As `stored`, also for a name of a model that spells what comes before its end otherwise.

        `language_model.lm_head.weight` is `lm_head.weight` in the model's text-only twin.
        """
        found = self.stored(name)
        if found is not None:
            return found
        known = {*self.tensors.names, *(n for group in self.ties for n in group)}
        alike = {self.stored(n) for n in known if _end(n) == _end(name)} - {None}
        return alike.pop() if len(alike) == 1 else None


@dataclass(frozen=True)
class Target:
    """The vocabulary of the output.

    Attributes
    ----------
    owner: the tokenizer that it begins with, ids and all.
    tokens: the token of every id; None where an id has none.
    rows: of the embedding: as many as tokens, or more.
    added: the tokens that are looked for before text is cut, and that the owner does not have
        or does not look for, as in tokenizer.json.
    """

    owner: Tokenizer
    tokens: tuple[str | None, ...]
    rows: int
    added: Mapping[str, Mapping[str, Any]]

    @cached_property
    def ids(self) -> Mapping[str, int]:
        """The id of every token."""
        return {token: i for i, token in enumerate(self.tokens) if token is not None}

    @property
    def left_out(self) -> frozenset[str]:
        """Tokens of the owner that have no row in its model."""
        return frozenset(self.owner.ids.keys() - self.ids.keys())

    @property
    def plain(self) -> tuple[str, ...]:
        """New tokens that join the plain vocabulary."""
        new = (t for t in self.tokens if t is not None and t not in self.owner.ids)
        return tuple(t for t in new if t not in self.added)

    @property
    def changed(self) -> bool:
        """Whether the owner's files have to be changed."""
        return bool(self.added) or self.ids.keys() != self.owner.ids.keys()


def target_of(
    setting: Vocabulary, owner: Tokenizer, owner_rows: int | None, members: Sequence[Member]
) -> Target:
    """The vocabulary that a recipe asks for.

    owner_rows: rows of the owner's embedding; None where it is not known. Tokens beyond them
    are left out. The first of `members` is the base.
    """
    size = owner.size if owner_rows is None else min(owner.size, owner_rows)
    tokens = owner.by_id()[:size]
    while tokens and tokens[-1] is None:
        tokens.pop()
    known = {t for t in tokens if t is not None}
    added: dict[str, Mapping[str, Any]] = {}
    entries: dict[str, Mapping[str, Any]] = {}
    for member in members:
        for token, entry in member.tokenizer.added.items():
            if entry["id"] < member.tensors.rows:
                entries.setdefault(token, entry)
    if setting.source == "union":
        plain = (t for m in members for t in m.used if t not in entries and t not in known)
        tokens += dict.fromkeys(plain)
        added |= {t: entries[t] for t in entries if t not in known or t not in owner.added}
        tokens += (t for t in added if t not in known)
        known |= {t for t in tokens if t is not None}
    for token in setting.tokens or ():
        if token not in known:
            plain_entry = {"content": token, "normalized": True, "special": False}
            added[token] = entries.get(token) or owner.added.get(token) or _entry(plain_entry)
            tokens.append(token)
    return Target(owner, tuple(tokens), _rows(setting, len(tokens), owner_rows), added)


def _end(name: str) -> str:
    """The last module of a name and what it holds: `lm_head.weight`."""
    return ".".join(name.split(".")[-2:])


def _entry(given: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"single_word": False, "lstrip": False, "rstrip": False, **given}


def _rows(setting: Vocabulary, tokens: int, owner_rows: int | None) -> int:
    """Rows of the output: as the owner has them unless more are needed, or a multiple is asked."""
    multiple = setting.pad_to_multiple_of
    if multiple is not None:
        return -(-tokens // multiple) * multiple
    return max(tokens, owner_rows or 0)


def first_difference(
    one: Mapping[str, int], other: Mapping[str, int], names: tuple[ModelRef, ModelRef]
) -> str:
    """In words, the first tokens that do not have the same id; empty where all have."""
    found: dict[str, str] = {}
    for ids, others in ((one, other), (other, one)):
        for token in sorted((t for t in ids if others.get(t) != ids[t]), key=ids.__getitem__):
            held = zip(names, (one.get(token), other.get(token)), strict=True)
            places = " and ".join(f"{i} in '{name}'" for name, i in held if i is not None)
            found.setdefault(token, f"'{token[:40]}' is {places}")
            if len(found) > _SHOWN:
                break
    shown = list(found.values())
    return "; ".join(shown[:_SHOWN]) + (", and others" if len(shown) > _SHOWN else "")


def refuse_odd(member: Member) -> None:
    """Refuse a head of another number of rows than the embedding."""
    odd = member.tensors.odd
    if odd:
        raise MismatchError(
            f"The head '{odd[0]}' of '{member.reference}' has "
            f"{member.checkpoint.tensors[odd[0]].shape[0]} rows and its embedding "
            f"{member.tensors.rows}, so its vocabulary cannot be changed."
        )
