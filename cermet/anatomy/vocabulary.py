"""The tensors that have one row for each token, and the fields of a config that count them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cermet.anatomy.layers import text_path
from cermet.anatomy.survey import Anatomy
from cermet.anatomy.ties import is_head, token_embeddings
from cermet.core.types import Role

__all__ = ["TokenTensors", "token_tensors", "vocabulary_keys"]

Path = tuple[str, ...]


@dataclass(frozen=True)
class TokenTensors:
    """The tensors of a model that have one row for each token.

    Attributes
    ----------
    rows: how many rows, of which a tokenizer may use fewer.
    names: the token embedding first, then its copies, heads and their biases.
    odd: heads of another number of rows.
    """

    rows: int
    names: tuple[str, ...]
    odd: tuple[str, ...] = ()


def token_tensors(anatomy: Anatomy) -> TokenTensors | None:
    """The tensors with a row for each token; None in a model that embeds no text.

    A vector of one number for each token (a head's bias, also as [1, tokens]) has rows too.
    """
    shapes = {name: place.shape for name, place in anatomy.places.items()}
    first = next(iter(token_embeddings(shapes)), None)
    if first is None:
        return None
    rows = shapes[first][0]
    names, odd = [first], []
    for name, place in anatomy.places.items():
        if name == first or place.role not in (Role.EMBEDDING, Role.HEAD):
            continue
        shape = shapes[name]
        if shape and rows == (shape[-1] if shape[0] == 1 else shape[0]):
            names.append(name)
        elif is_head(name) and shape[1:] == shapes[first][1:]:
            odd.append(name)
    return TokenTensors(rows, tuple(names), tuple(odd))


def vocabulary_keys(config: Mapping[str, Any]) -> tuple[Path, ...]:
    """Paths into the config that hold the number of rows of the token embedding."""
    inner = text_path(config)
    found = []
    for path in dict.fromkeys(((), inner)):
        place: Any = config
        for step in path:
            place = place[step]
        if isinstance(place.get("vocab_size"), int):
            found.append((*path, "vocab_size"))
    return tuple(found)
