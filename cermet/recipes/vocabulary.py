"""Models of unequal vocabularies, opened so that they have the one that a recipe asks for."""

from __future__ import annotations

import copy
import filecmp
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cermet.anatomy import (
    Anatomy,
    TokenTensors,
    find_modules,
    survey,
    token_tensors,
    vocabulary_keys,
)
from cermet.checkpoints.header import read_json
from cermet.checkpoints.reader import Checkpoint, read_config
from cermet.checkpoints.revocabulary import RevocabularyCheckpoint
from cermet.checkpoints.tokenizer import Tokenizer, read_tokenizer, vocabulary_files
from cermet.checkpoints.tokenizer_edit import edit_tokenizer
from cermet.core.errors import CermetError, InputError, RecipeError
from cermet.recipes.anchor import anchor_of
from cermet.recipes.document import Document
from cermet.recipes.rows import Share, Tables
from cermet.recipes.schema import ModelRef, Recipe, Vocabulary, parse_model
from cermet.recipes.special_ids import SpecialIds
from cermet.recipes.tokens import Member, Target, first_difference, refuse_odd, target_of

__all__ = ["GENERATION", "Aligned", "Outcome", "align", "differ", "doubts"]

GENERATION = "generation_config.json"
_SHOWN = 3  # tokens in a warning

Opener = Callable[[ModelRef], Checkpoint]
Folder = Callable[[ModelRef], Path]
_Tensors = tuple[TokenTensors | None, tuple[tuple[str, ...], ...]]


@dataclass(frozen=True)
class Outcome:
    """What happens to the vocabulary.

    Attributes
    ----------
    owner: the folder whose tokenizer files the output gets.
    source: what the recipe says of it.
    tokens, rows: of the output.
    data: the content of tokenizer.json, where that of the owner is changed.
    left_out: tokens of the owner that the output does not have.
    shares: of each model, where its rows come from.
    ids: how configs name tokens; None where they name them as before.
    """

    owner: Path
    source: str
    tokens: int
    rows: int
    data: Mapping[str, Any] | None
    left_out: frozenset[str]
    shares: tuple[Share, ...]
    ids: SpecialIds | None

    def config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """A config with the number of rows and the tokens' ids of the output."""
        found: dict[str, Any] = copy.deepcopy(dict(config))
        for *above, key in vocabulary_keys(found) if self.shares else ():
            place = found
            for step in above:
                place = place[step]
            place[key] = self.rows
        return found if self.ids is None else self.ids.told(found)

    def generation(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """A config for generation, likewise."""
        if self.ids is None:
            return dict(config)
        return replace(self.ids, owner=self.ids.owner[::-1]).told(config)

    def summary(self) -> dict[str, Any]:
        """As plain data, for a plan and for the record."""
        return {
            "source": self.source,
            "tokens": self.tokens,
            "rows": self.rows,
            "models": [share.as_data() for share in self.shares],
        }

    def sentence(self) -> str:
        """In one line, for people."""
        return f"{self.tokens:,} tokens in {self.rows:,} rows (tokenizer: {self.source})"


@dataclass(frozen=True)
class Aligned:
    """The models of a recipe, in the vocabulary of the output where they need another."""

    open: Opener
    outcome: Outcome | None = None
    warnings: tuple[str, ...] = ()


def align(recipe: Recipe, document: Document, opener: Opener, folder: Folder) -> Aligned:
    """Open the models of a recipe in the vocabulary that it asks for.

    `opener` opens a model, and `folder` finds its files. Models whose rows stay as they are
    come as `opener` gives them. Raises RecipeError with the line of what cannot be done.
    """
    setting = recipe.vocabulary
    if setting is None:
        return Aligned(opener)
    return _Alignment(recipe, setting, document, opener, folder).result()


class _Alignment:
    def __init__(
        self,
        recipe: Recipe,
        setting: Vocabulary,
        document: Document,
        opener: Opener,
        folder: Folder,
    ) -> None:
        short = recipe.tokenizer is None
        self.place = document.at(("tokenizer_source",) if short else ("tokenizer", "source"))
        self.setting, self.document, self.opener, self.folder = setting, document, opener, folder
        bases = [recipe.base_model, *(part.base_model for part in recipe.slices or ())]
        self.base = next((b for b in bases if b is not None), None)
        self.models = recipe.references()
        self.checkpoints = {m: opener(m) for m in self.models}
        self.anatomies = {m: _survey(c) for m, c in self.checkpoints.items()}
        modules = [find_modules(anatomy) for anatomy in self.anatomies.values()]
        self.donor = self.models[anchor_of(recipe, self.models, modules)]
        self.owner = self._named() if setting.source not in ("union", "base") else self.donor
        self.warnings: list[str] = []
        self.tokenizers: dict[ModelRef, Tokenizer] = {}

    def _named(self) -> ModelRef:
        """The model whose tokenizer the recipe asks for."""
        try:
            found = parse_model(self.setting.source)
            self.folder(found)
        except InputError as error:
            raise RecipeError(f"{self.place}: {error}") from error
        return found

    def result(self) -> Aligned:
        checkpoints = self.checkpoints
        opened = _from(checkpoints, self.opener)
        tensors = {m: (token_tensors(a), a.ties) for m, a in self.anatomies.items()}
        if self._nothing_to_do({m: found for m, (found, _) in tensors.items()}):
            other = None if self.owner == self.donor else self._only_files()
            return Aligned(opened, other)
        members = self._members(checkpoints, tensors)
        owner = self._read(self.owner)
        # the base first: where models differ in what they say of a new token, it counts
        ordered = sorted(members, key=lambda m: m.reference != self.donor)
        target = target_of(self.setting, owner, self._owner_rows(members), ordered)
        shares = []
        tables = self._tables(members, target)
        every = dict.fromkeys(name for member in members for name in member.tensors.names)
        for i, member in enumerate(members):
            held = [name for name in every if member.stored(name) is not None]
            rows = {name: tables.rows(i, name) for name in held}
            shares.append(tables.share(i, rows[member.tensors.names[0]]))
            changed = {name: found for name, found in rows.items() if found is not None}
            if changed:
                refuse_odd(member)
                checkpoints[member.reference] = RevocabularyCheckpoint(
                    member.checkpoint, changed, vocabulary_files(member.tokenizer.folder)
                )
        self._warn(members, target)
        outcome = self._outcome(members, target, shares)
        return Aligned(opened, outcome, tuple(self.warnings))

    def _nothing_to_do(self, tensors: Mapping[ModelRef, TokenTensors | None]) -> bool:
        """Whether all models have the same files and shapes, and no rule asks for a change.

        Models that embed no text have no rows that could change.
        """
        asked = self.setting.tokens or self.setting.pad_to_multiple_of is not None
        textless = self.setting.source != "union" and not any(tensors.values())
        if asked or textless or self.owner != self.donor:
            return textless and not asked
        first, *others = [self.folder(m) for m in self.models]
        some = bool(vocabulary_files(first)) or self.setting.source == "base"
        rows = {None if found is None else found.rows for found in tensors.values()}
        return some and len(rows) == 1 and all(_same_files(first, other) for other in others)

    def _only_files(self) -> Outcome:
        """What happens to models that embed no text, and so have a tokenizer's files alone."""
        tokenizer = self._read(self.owner)
        count = len(tokenizer.ids)
        return Outcome(tokenizer.folder, self.setting.source, count, 0, None, frozenset(), (), None)

    def _members(
        self, checkpoints: Mapping[ModelRef, Checkpoint], tensors: Mapping[ModelRef, _Tensors]
    ) -> list[Member]:
        members = []
        for model, (found, ties) in tensors.items():
            if found is None:
                raise RecipeError(f"{self.place}: '{model}' has no embedding of tokens.")
            tokenizer = self._tokenizer_of(model, found, tensors[self.donor][0])
            members.append(Member(model, checkpoints[model], tokenizer, found, ties))
        return members

    def _tokenizer_of(
        self, model: ModelRef, own: TokenTensors, donor: TokenTensors | None
    ) -> Tokenizer:
        """A model's tokenizer; the donor's for a model without one that has as many rows."""
        lacks = model not in (self.donor, self.owner) and not vocabulary_files(self.folder(model))
        if not lacks or donor is None or own.rows != donor.rows:
            return self._read(model)
        self.warnings.append(
            f"'{model}' holds no tokenizer; its tokens are taken to be those of '{self.donor}'."
        )
        return self._read(self.donor)

    def _read(self, model: ModelRef) -> Tokenizer:
        try:
            if model not in self.tokenizers:
                self.tokenizers[model] = read_tokenizer(self.folder(model))
            return self.tokenizers[model]
        except InputError as error:
            raise RecipeError(f"{self.place}: {error}") from error

    def _owner_rows(self, members: Sequence[Member]) -> int | None:
        """Rows of the embedding of the model whose tokenizer it is; None where nothing says it."""
        for member in members:
            if member.reference == self.owner:
                return member.tensors.rows
        config: Any = read_config(self.folder(self.owner))
        for *above, key in vocabulary_keys(config)[-1:]:
            for step in above:
                config = config[step]
            return int(config[key])
        return None

    def _tables(self, members: Sequence[Member], target: Target) -> Tables:
        base = None if self.base is None else self.models.index(self.base)
        return Tables(members, target, base, self.setting.tokens or {}, self.document)

    def _warn(self, members: Sequence[Member], target: Target) -> None:
        kinds = {m.tokenizer.kind: m.reference for m in members}
        if len(kinds) > 1:
            found = " and ".join(f"{kind} ('{model}')" for kind, model in kinds.items())
            self.warnings.append(f"The tokenizers are of different kinds: {found}.")
        known = {t for m in members for t in m.used}
        named = self.setting.tokens or {}
        lost = [t for t in target.tokens if t not in known and t is not None and t not in named]
        if lost:
            self.warnings.append(
                f"No model has {_listed(lost)}, so zeros stand for what would have been learnt."
            )
        pieces = [t for t in target.plain if len(t) > 1]
        if pieces and target.owner.kind.endswith("BPE"):
            self.warnings.append(
                f"Text does not reach {_listed(pieces)}: it is cut by the merges of "
                f"'{self.owner}', which do not lead there."
            )

    def _outcome(
        self, members: Sequence[Member], target: Target, shares: Sequence[Share]
    ) -> Outcome:
        data = None
        if target.changed:
            try:
                data = edit_tokenizer(target.owner, target.tokens, target.added)
            except InputError as error:
                raise RecipeError(f"{self.place}: {error}") from error
        ids = None
        if self.owner != self.donor:
            own = self.folder(self.owner)
            configs = [read_config(own)]
            if (own / GENERATION).is_file():
                configs.append(read_json(own / GENERATION, "the generation config"))
            donor = next(m for m in members if m.reference == self.donor)
            ids = SpecialIds(donor.tokenizer.by_id(), target.ids, configs)
            lost = ids.lost(donor.checkpoint.config)
            if lost:
                raise RecipeError(
                    f"{self.place}: the tokenizer of '{self.owner}' does not have the token that "
                    f"'{lost[0]}' of '{self.donor}' names, and without it nothing but text goes "
                    "in. Take 'base' or 'union', or name the token under 'tokens'."
                )
        return Outcome(
            self.folder(self.owner), self.setting.source, len(target.ids), target.rows, data,
            target.left_out, tuple(shares), ids,
        )  # fmt: skip


def _from(checkpoints: Mapping[ModelRef, Checkpoint], opener: Opener) -> Opener:
    """An opener that gives those that are open already."""
    return lambda model: checkpoints[model] if model in checkpoints else opener(model)


def _survey(checkpoint: Checkpoint) -> Anatomy:
    return survey({n: t.shape for n, t in checkpoint.tensors.items()}, checkpoint.config)


def _same_files(one: Path, other: Path) -> bool:
    """Whether two folders hold the same vocabulary, byte for byte."""
    left, right = ({p.name: p for p in vocabulary_files(f)} for f in (one, other))
    return left.keys() == right.keys() and all(
        filecmp.cmp(left[name], right[name], shallow=False) for name in left
    )


def _listed(tokens: Sequence[str]) -> str:
    shown = ", ".join(f"'{t[:40]}'" for t in tokens[:_SHOWN])
    more = f" and {len(tokens) - _SHOWN:,} more tokens" if len(tokens) > _SHOWN else ""
    return ("the tokens " if len(tokens) > 1 else "the token ") + shown + more


# -- recipes that say nothing of the vocabulary ---------------------------------------


def differ(one: ModelRef, other: ModelRef, folder: Folder) -> str:
    """Why two models' vocabularies do not fit, and what a recipe may say about it."""
    ways = (
        "Say which vocabulary the output has: 'tokenizer_source: base', 'tokenizer_source: union' "
        "for the tokens of all, or 'tokenizer_source:' with one of the models."
    )
    try:
        found = first_difference(
            read_tokenizer(folder(one)).ids, read_tokenizer(folder(other)).ids, (one, other)
        )
    except CermetError:
        return f"Their vocabularies differ. {ways}"
    return f"Their vocabularies differ{f': {found}' if found else ' in their padding'}. {ways}"


def doubts(opened: Sequence[tuple[ModelRef, Checkpoint]], folder: Folder) -> list[str]:
    """A sentence for each model whose rows stand for other tokens than the first model's.

    Nothing is said of a model whose tokenizer cannot be read.
    """
    (first, checkpoint), *others = opened
    found = []
    for model, other in others:
        here, there = folder(first), folder(model)
        if not vocabulary_files(here) or not vocabulary_files(there) or _same_files(here, there):
            continue
        try:
            ids = _with_rows(here, checkpoint), _with_rows(there, other)
        except CermetError:
            continue
        words = first_difference(*ids, (first, model))
        if words:
            found.append(
                f"The tokenizers differ, and rows are merged by their numbers: {words}. "
                "tokenizer_source says whose tokens are meant."
            )
    return found


def _with_rows(folder: Path, checkpoint: Checkpoint) -> dict[str, int]:
    """The ids of a model's tokens that have rows."""
    tensors = token_tensors(_survey(checkpoint))
    ids = read_tokenizer(folder).ids
    return {t: i for t, i in ids.items() if tensors is not None and i < tensors.rows}
