"""Finding the base's tensor for a name of an adapter, where prefixes differ.

An adapter may have been trained on a model that wraps the saved one (`model.layers.0...` and
`layers.0...`), or by a version of transformers that orders prefixes differently
(`model.language_model.layers.0...` and `language_model.model.layers.0...`). Such names share
their ends. A match must keep every numbered layer, must be the only one, and must not lead
from one tower of a model to another.
"""

from __future__ import annotations

from collections.abc import Iterable

from cermet.core.errors import MismatchError

__all__ = ["Names"]

# parts of a name that choose one of several towers: never exchanged for one another
_TOWERS = ("encoder", "decoder", "vision", "visual", "audio", "speech", "text", "language")


class Names:
    """The names of a base's tensors, searchable by their ends."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = set(names)
        self._by_tail: dict[str, list[str]] = {}
        for name in sorted(self._names):
            self._by_tail.setdefault(_tail(name), []).append(name)

    def find(self, wanted: str) -> str | None:
        """The base's name for a tensor of the adapted model, or None where it has none.

        Raises
        ------
        MismatchError: several tensors of the base would do.
        """
        if wanted in self._names:
            return wanted
        found = [name for name in self._by_tail.get(_tail(wanted), ()) if _same(wanted, name)]
        longest = max((_shared(wanted, name) for name in found), default=0)
        found = [name for name in found if _shared(wanted, name) == longest]
        if len(found) > 1:
            best = max(_likeness(wanted, name) for name in found)
            found = [name for name in found if best and _likeness(wanted, name) == best] or found
        if len(found) > 1:
            raise MismatchError(
                f"the adapter's {wanted!r} could belong to {found[0]!r} or to {found[1]!r} of the "
                "base. Give the checkpoint that the adapter was trained on."
            )
        return found[0] if found else None


def _tail(name: str) -> str:
    """From the first numbered part on; the last two parts where nothing is numbered."""
    parts = name.split(".")
    numbered = [place for place, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[numbered[0] - 1 if numbered and numbered[0] else -2 :])


def _shared(one: str, other: str) -> int:
    """How many parts two names share at their ends."""
    count = 0
    for a, b in zip(reversed(one.split(".")), reversed(other.split(".")), strict=False):
        if a != b:
            break
        count += 1
    return count


def _heads(one: str, other: str) -> tuple[set[str], set[str]]:
    shared = _shared(one, other)
    return set(one.split(".")[:-shared]), set(other.split(".")[:-shared])


def _likeness(one: str, other: str) -> int:
    a, b = _heads(one, other)
    return len(a & b)


def _same(one: str, other: str) -> bool:
    """False where the parts before the shared end name two different towers."""
    a, b = ({tower for tower in _TOWERS if tower in ".".join(h)} for h in _heads(one, other))
    return not (a - b and b - a)
