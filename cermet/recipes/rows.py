"""Where each row of a tensor of a model comes from, once the output has its vocabulary.

All is done with index tables: what a model has, whose row it gets for what it lacks, and what
a recipe says of single tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cermet.checkpoints.revocabulary import AVERAGE, FILL, ZERO, Rows
from cermet.core.errors import RecipeError
from cermet.recipes.document import Document
from cermet.recipes.schema import ModelRef, TokenRow, TokenRule
from cermet.recipes.tokens import Member, Target

__all__ = ["Share", "Tables"]

_Given = tuple[NDArray[np.int32], NDArray[np.int64]]


@dataclass(frozen=True)
class Share:
    """How many rows of a model's embedding come from where, in the vocabulary of the output.

    own: its own. given: from other models, by position; averaged: the mean of several models'.
    zero: of tokens that no model has. padding: rows that stand for no token.
    """

    model: str
    own: int
    given: Mapping[str, int]
    averaged: int
    zero: int
    padding: int

    def as_data(self) -> dict[str, Any]:
        """As a mapping by the same names."""
        return asdict(self)


class Tables:
    """The index tables of a recipe.

    Parameters
    ----------
    base: position of the model whose rows are given to those that lack one; None where the
        recipe has no base, and the models that have a row are averaged.
    rules: what the recipe says of single tokens.
    """

    def __init__(
        self,
        members: Sequence[Member],
        target: Target,
        base: int | None,
        rules: Mapping[str, TokenRule],
        document: Document,
    ) -> None:
        self._members, self._target, self._base = members, target, base
        self._rules, self._document = rules, document
        self._tokens = np.zeros(target.rows, dtype=bool)
        self._tokens[: len(target.tokens)] = [t is not None for t in target.tokens]
        self._ids = target.ids
        self._own = lru_cache(maxsize=None)(self._find_own)

    def rows(self, position: int, name: str) -> Rows | None:
        """Where the rows of a tensor of a model come from; None where nothing changes.

        The tensor is stored, or tied to one that is.
        """
        holders = self._holders(position, name)
        givers = [(self._members[p].checkpoint, stored) for p, stored, _ in holders]
        shared = np.stack([self._own(p, rows) for p, _, rows in holders])
        at = next(i for i, (p, _, _) in enumerate(holders) if p == position)
        origin, row = self._defaults(shared, [p for p, _, _ in holders])
        forced = self._apply_rules(holders, shared, origin, row)
        mine = (shared[at] >= 0) & ~forced
        origin[mine], row[mine] = at, shared[at][mine]
        same = holders[at][2] == self._target.rows and (origin == at).all()
        if same and (row == np.arange(len(row))).all():
            return None
        return Rows(holders[at][1], givers, origin, row, shared, self._tokens)

    def share(self, position: int, rows: Rows | None) -> Share:
        """What `rows` of a model's embedding amounts to."""
        name = str(self._members[position].reference)
        tokens = int(self._tokens.sum())
        padding = len(self._tokens) - tokens
        if rows is None:
            return Share(name, tokens, {}, 0, 0, padding)
        known = {id(m.checkpoint): str(m.reference) for m in self._members}
        names = [known[id(giver)] for giver, _ in rows.givers]
        origin = rows.origin[self._tokens]
        counts = {n: int((origin == i).sum()) for i, n in enumerate(names)}
        own = counts.pop(name)
        given = {n: count for n, count in counts.items() if count}
        averaged, zero = (int((origin == kind).sum()) for kind in (AVERAGE, ZERO))
        return Share(name, own, given, averaged, zero, padding)

    # -- what a model has -----------------------------------------------------

    def _holders(self, position: int, name: str) -> list[tuple[int, str, int]]:
        """The models that have a tensor of this name and width: position, stored name, rows."""
        stored = [member.counterpart(name) for member in self._members]
        shapes = [
            None if n is None else _shape(m, n) for m, n in zip(self._members, stored, strict=True)
        ]
        own = shapes[position]
        assert own is not None
        return [
            (p, name, shape[0])
            for p, (name, shape) in enumerate(zip(stored, shapes, strict=True))
            if name is not None and shape is not None and shape[1] == own[1]
        ]

    def _find_own(self, position: int, rows: int) -> NDArray[np.int64]:
        """For each row of the output the row of a model, -1 where it has none.

        A row without a token is the model's own where that has no token there either.
        """
        ids = self._members[position].tokenizer.ids
        found = np.arange(self._target.rows, dtype=np.int64)
        taken = np.fromiter(ids.values(), dtype=np.int64, count=len(ids))
        found[taken[taken < len(found)]] = -1
        found[self._tokens] = [ids.get(token, -1) for token in self._ids]
        found[found >= rows] = -1
        return found

    # -- what it gets ---------------------------------------------------------

    def _defaults(self, shared: NDArray[np.int64], positions: Sequence[int]) -> _Given:
        """For each row what a model gets that lacks it: the base's, the only one's, or the mean."""
        has = shared >= 0
        count = has.sum(0)
        origin = np.where(self._tokens, ZERO, FILL).astype(np.int32)
        origin[count > 1] = AVERAGE
        only = count == 1
        origin[only] = has.argmax(0)[only]
        if self._base in positions:
            base = positions.index(self._base)
            origin[has[base]] = base
        given = origin >= 0
        row = np.full(len(origin), -1, dtype=np.int64)
        row[given] = shared[origin[given], np.flatnonzero(given)]
        return origin, row

    def _apply_rules(
        self,
        holders: Sequence[tuple[int, str, int]],
        shared: NDArray[np.int64],
        origin: NDArray[np.int32],
        row: NDArray[np.int64],
    ) -> NDArray[np.bool_]:
        """Write what the recipe says of single tokens into the defaults; which ones are forced."""
        forced = np.zeros(len(origin), dtype=bool)
        for token, rule in self._rules.items():
            place = self._ids[token]
            forced[place] = rule.force
            if rule.source is None:
                if origin[place] == ZERO:
                    raise self._wrong(
                        token,
                        "no model has this token; give it a source, such as {kind: zero} or "
                        "{kind: model_token, ...}",
                    )
            elif rule.source.kind == "zero":
                origin[place], row[place] = ZERO, -1
            else:
                at, found = self._named(token, rule.source, holders, shared)
                origin[place], row[place] = at, found
        return forced

    def _named(
        self,
        token: str,
        source: TokenRow,
        holders: Sequence[tuple[int, str, int]],
        shared: NDArray[np.int64],
    ) -> tuple[int, int]:
        """The giver and the row that a rule names."""
        at = self._giver(token, source.model, holders)
        position, stored, rows = holders[at]
        if source.kind == "model":
            found, what = int(shared[at][self._ids[token]]), f"'{token}'"
        elif source.token is not None:
            found = self._members[position].tokenizer.ids.get(source.token, -1)
            what = f"'{source.token}'"
        else:
            assert source.token_id is not None
            found, what = source.token_id, f"of the id {source.token_id}"
        if not 0 <= found < rows:
            raise self._wrong(
                token, f"'{source.model}' has no row for a token {what} ('{stored}' has {rows})"
            )
        return at, found

    def _giver(
        self, token: str, model: ModelRef | None, holders: Sequence[tuple[int, str, int]]
    ) -> int:
        for at, (position, _, _) in enumerate(holders):
            if self._members[position].reference == model:
                return at
        raise self._wrong(token, f"'{model}' is not among the models of the recipe")

    def _wrong(self, token: str, what: str) -> RecipeError:
        place = self._document.at(("tokenizer", "tokens", token))
        return RecipeError(f"{place}: the token '{token}': {what}.")


def _shape(member: Member, name: str) -> tuple[int, tuple[int, ...]]:
    """Rows of a stored tensor, and what is left of its shape; a vector's may be [1, rows]."""
    shape = member.checkpoint.tensors[name].shape
    return (shape[-1], ()) if shape[0] == 1 else (shape[0], shape[1:])
