"""The fields of a config that name tokens by their ids, in another vocabulary."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["SpecialIds"]

_NAMES_A_TOKEN = re.compile(r"_token_(?:id|ids|index)$")
_SENSE = re.compile(r"^(?:image|video|vision|audio|speech)_|^[be]o[ia]_")


@dataclass(frozen=True)
class SpecialIds:
    """What a config says of single tokens, told in the vocabulary of the output.

    before: the tokens by id of the model whose config it is. after: the ids in the output.
    owner: the configs of the model whose tokenizer the output has, that of the model and that
    for generation; what they say counts before the rest, and the first of them most.
    """

    before: Sequence[str | None]
    after: Mapping[str, int]
    owner: Sequence[Mapping[str, Any]]

    def told(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The config with the owner's ids, else those of the same tokens, else null."""
        return self._told(config, self.owner)

    def lost(self, config: Mapping[str, Any]) -> list[str]:
        """The fields that name where images or sound go in, by tokens that the output lacks."""
        return [name for name in _emptied(config, self.told(config)) if _SENSE.match(name)]

    def _told(
        self, config: Mapping[str, Any], owner: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        return {key: self._value(key, value, owner) for key, value in config.items()}

    def _value(self, key: str, value: Any, owner: Sequence[Mapping[str, Any]]) -> Any:
        if isinstance(value, Mapping):
            inside = [known[key] for known in owner if isinstance(known.get(key), Mapping)]
            return self._told(value, [*inside, *owner])
        if not _NAMES_A_TOKEN.search(key) or value is None:
            return value
        for known in owner:
            if known.get(key) is not None:
                return known[key]
        if isinstance(value, list):
            found = [self._id(each) for each in value]
            return [each for each in found if each is not None] or None
        return self._id(value)

    def _id(self, value: Any) -> int | None:
        inside = isinstance(value, int) and 0 <= value < len(self.before)
        token = self.before[value] if inside else None
        return None if token is None else self.after.get(token)


def _emptied(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The names of fields, also of inner ones, that are null only afterwards; each once."""
    found = {key: None for key, value in before.items() if value is not None and after[key] is None}
    for key, value in before.items():
        if isinstance(value, Mapping):
            found |= dict.fromkeys(_emptied(value, after[key]))
    return list(found)
