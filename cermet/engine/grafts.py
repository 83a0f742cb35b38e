"""Which tensors of a model get new rows, and from which matrices of the donor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cermet.anatomy import TokenTensors, survey, token_tensors
from cermet.anatomy.ties import is_head
from cermet.checkpoints.dtypes import SIZES
from cermet.checkpoints.reader import Checkpoint
from cermet.checkpoints.shared_tokens import shared_tokens
from cermet.checkpoints.tokenizer import Tokenizer
from cermet.checkpoints.writer import Slot
from cermet.core.errors import InputError, MismatchError
from cermet.core.types import Role
from cermet.engine.transplant import Matrix, Vocabulary

__all__ = ["Grafts", "find_grafts", "vocabulary_of"]


@dataclass(frozen=True)
class Grafts:
    """The tensors of a model with a row for each token.

    pairs: matrix -> the donor's matrix that its new rows are made after. vectors: of one number
    for each token -> the matrix whose sums they follow. rows: of the model's embedding.
    """

    pairs: Mapping[str, Matrix]
    vectors: Mapping[str, str]
    rows: int

    def slot(self, checkpoint: Checkpoint, name: str, rows: int) -> Slot:
        """A tensor of the output, with its new number of rows if it has one for each token."""
        info = checkpoint.tensors[name]
        shape = info.shape
        if name in self.pairs:
            shape = (rows, shape[1])
        elif name in self.vectors:
            shape = tuple(rows if n == self.rows else n for n in shape)
        count = int(np.prod(shape, dtype=np.int64))
        return Slot(name, info.dtype, shape, count * SIZES[info.dtype])


@dataclass(frozen=True)
class _Tokens:
    """The tensors of a model that know tokens. tied: names that share the embedding."""

    checkpoint: Checkpoint
    embedding: str
    tied: frozenset[str]
    found: TokenTensors

    def matrix(self, name: str) -> bool:
        shape = self.checkpoint.tensors[name].shape
        return len(shape) == 2 and shape[0] != 1


def find_grafts(model: Checkpoint, donor: Checkpoint) -> Grafts:
    """Pair the tensors of two models; MismatchError or InputError where that cannot be done."""
    own, theirs = _tokens(model), _tokens(donor)
    if own.found.odd:
        odd = own.found.odd[0]
        raise MismatchError(
            f"'{odd}' of '{model.path}' has {model.tensors[odd].shape[0]:,} rows, and its "
            f"embedding {own.found.rows:,}; a tokenizer cannot be transplanted into both."
        )
    pairs, vectors = {}, []
    for name in own.found.names:
        if not own.matrix(name):
            vectors.append(name)
        else:
            pairs[name] = Matrix(donor, theirs.embedding if name in own.tied else _head(theirs))
    heads = [name for name in pairs if name not in own.tied]
    return Grafts(pairs, dict.fromkeys(vectors, (heads or [own.embedding])[0]), own.found.rows)


def _tokens(checkpoint: Checkpoint) -> _Tokens:
    """What knows tokens in a model, unless that is nothing, or several embeddings."""
    shapes = {name: info.shape for name, info in checkpoint.tensors.items()}
    anatomy = survey(shapes, checkpoint.config)
    found = token_tensors(anatomy)
    if found is None:
        raise InputError(f"'{checkpoint.path}' has no embedding of tokens.")
    first = found.names[0]
    tied = {first, *(name for group in anatomy.ties if first in group for name in group)}
    for name, place in anatomy.places.items():
        # one with far fewer rows is of something else, such as the parts of a pair of texts
        large = len(shapes[name]) == 2 and 2 * shapes[name][0] > found.rows
        if place.role is Role.EMBEDDING and large and name not in tied:
            raise MismatchError(
                f"'{checkpoint.path}' has several embeddings of tokens ('{first}' and '{name}'); a "
                "tokenizer can be transplanted between models with one."
            )
    return _Tokens(checkpoint, first, frozenset(tied), found)


def _head(donor: _Tokens) -> str:
    """The donor's head, or its embedding where the two are tied."""
    if any(is_head(name) for name in donor.tied):
        return donor.embedding
    heads = [name for name in donor.checkpoint.tensors if is_head(name) and donor.matrix(name)]
    if not heads:
        raise InputError(
            f"'{donor.checkpoint.path}' has no head, after which rows for that of the model could "
            "be made."
        )
    return heads[0]


def vocabulary_of(
    model: Tokenizer, donor: Tokenizer, own_rows: int, donor_rows: int, k: int
) -> Vocabulary:
    """Where the rows of the output come from; InputError where too few tokens are shared.

    Rows without a token pad both models: such a row is the model's of the same place.
    """
    rows = max(donor_rows, donor.size)
    origin = np.full(rows, -1, dtype=np.int64)
    shared = shared_tokens(model, donor)
    shared[shared >= own_rows] = -1  # a token that was never given a row
    origin[: donor.size] = shared
    atoms = np.flatnonzero(shared[:donor_rows] >= 0)
    padding = np.ones(max(rows, own_rows), dtype=bool)
    padding[[i for i in (*model.ids.values(), *donor.ids.values()) if i < len(padding)]] = False
    alone = np.flatnonzero(padding[: min(rows, own_rows)])
    origin[alone] = alone
    found = Vocabulary(origin, donor_rows, atoms)
    if not len(atoms):
        raise InputError(
            f"'{model.folder}' and '{donor.folder}' share no token, so no row could be made after "
            "the donor's."
        )
    if len(found.new) and k > len(atoms):
        raise InputError(
            f"'{model.folder}' and '{donor.folder}' share {len(atoms):,} tokens, fewer than the "
            f"{k} of which each new row is made; choose --k {len(atoms)} or less."
        )
    return found
