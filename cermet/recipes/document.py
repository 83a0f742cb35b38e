"""A YAML file as plain data, with the line that every part of it stands on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cermet.core.errors import RecipeError

__all__ = ["Document", "Where", "from_data", "read_document"]

Where = tuple[str | int, ...]
"""The way to a part of a document: keys and positions, from the top."""

_LARGEST_FILE = 1 << 20  # bytes
_MOST_NODES = 50_000
_DEEPEST = 40
_TOO_LARGE = 1e300  # beyond, a float ends

_YAML = "tag:yaml.org,2002:"
_TAGS = {
    "MappingNode": {f"{_YAML}map"},
    "SequenceNode": {f"{_YAML}seq"},
    "key": {_YAML + kind for kind in ("str", "int", "float", "bool", "null", "timestamp", "merge")},
}


@dataclass(frozen=True)
class Document:
    """Plain data and where its parts stand."""

    data: Any
    origin: str
    lines: Mapping[Where, int] = field(default_factory=dict)

    def at(self, where: Where) -> str:
        """`file:line` of a part, or of the nearest part around it that is known."""
        for length in range(len(where), -1, -1):
            if where[:length] in self.lines:
                return f"{self.origin}:{self.lines[where[:length]]}"
        return self.origin


def from_data(data: Mapping[str, Any], origin: str = "recipe") -> Document:
    """A recipe given as a mapping instead of a file."""
    try:
        json.dumps(data, default=str)
        return Document(_plain(data), origin)
    except (TypeError, ValueError, RecursionError) as error:
        raise RecipeError(
            f"{origin}: the mapping contains itself, is too deep, or holds what YAML cannot say."
        ) from error


def _plain(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {str(k): _plain(v) for k, v in data.items()}
    if isinstance(data, list | tuple):
        return [_plain(v) for v in data]
    return str(data) if isinstance(data, Path) else data


def read_document(path: Path) -> Document:
    """Read a YAML file; RecipeError, with the line, for whatever cannot be read."""
    try:
        if path.is_dir():
            raise RecipeError(f"'{path}' is a folder; a recipe is a YAML file.")
        with path.open("rb") as file:
            raw = file.read(_LARGEST_FILE + 1)
        if len(raw) > _LARGEST_FILE:
            raise RecipeError(f"'{path}' is larger than 1 MB; that is not a recipe.")
        text = raw.decode("utf-8")
    except OSError as error:
        raise RecipeError(f"The recipe '{path}' cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"The recipe '{path}' is not UTF-8 text.") from error
    return parse_document(text, str(path))


def parse_document(text: str, origin: str) -> Document:
    """Parse YAML text."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    yaml = YAML(typ="safe", pure=True)
    try:
        _check_size(yaml.parse(text), origin)
        node = yaml.compose(text)
        if node is None:
            raise RecipeError(f"{origin}: the recipe is empty.")
        builder = _Builder(yaml.constructor, origin)
        data = builder.build(node, (), ())
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise RecipeError(f"{origin}{line}: not valid YAML: {problem}.") from error
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{origin}: not valid YAML: {error}.") from error
    return Document(data, origin, builder.lines)


def _check_size(events: Iterable[Any], origin: str) -> None:
    """Refuse what is far too long or too deep while it is read, before a tree is built of it."""
    depth = 0
    for count, event in enumerate(events):
        kind = type(event).__name__
        depth += kind.endswith("StartEvent") - kind.endswith("EndEvent")
        if count > _MOST_NODES or depth > _DEEPEST + 2:  # the stream and the document count too
            problem = f"more than {_MOST_NODES:,} parts" if depth <= _DEEPEST + 2 else "too deep"
            line = event.start_mark.line + 1
            raise RecipeError(f"{origin}:{line}: not a recipe: {problem}.")


class _Builder:
    """Plain data out of YAML nodes, with limits on depth and size."""

    def __init__(self, constructor: Any, origin: str) -> None:
        self.constructor, self.origin = constructor, origin
        self.lines: dict[Where, int] = {}
        self.count = 0

    def _fail(self, node: Any, problem: str) -> RecipeError:
        return RecipeError(f"{self.origin}:{node.start_mark.line + 1}: {problem}.")

    def build(self, node: Any, where: Where, above: tuple[int, ...]) -> Any:
        """The data of a node; `above` are the nodes that contain it."""
        self.count += 1
        if self.count > _MOST_NODES:
            raise self._fail(node, f"the recipe has more than {_MOST_NODES:,} parts")
        if id(node) in above:
            raise self._fail(node, "an anchor contains itself")
        if len(above) > _DEEPEST:
            raise self._fail(node, f"nested more than {_DEEPEST} deep")
        self.lines.setdefault(where, node.start_mark.line + 1)
        inside = (*above, id(node))
        kind = type(node).__name__
        if str(node.tag) not in _TAGS.get(kind, _TAGS["key"]):
            raise self._fail(node, f"the tag '{node.tag}' has no meaning in a recipe")
        if kind == "MappingNode":
            return self._mapping(node, where, inside)
        if kind == "SequenceNode":
            return [self.build(n, (*where, i), inside) for i, n in enumerate(node.value)]
        value = self._scalar(node)
        if isinstance(value, int | float) and not abs(value) < _TOO_LARGE:  # or not a number
            raise self._fail(node, f"{node.value[:40]} is not a number that can be used")
        if value is not None and not isinstance(value, str | int | float | bool):
            return str(node.value)  # dates and the like are names here
        return value

    def _scalar(self, node: Any) -> Any:
        try:
            return self.constructor.construct_object(node)
        except (ValueError, LookupError, AttributeError) as error:  # a wrong tag, or date
            what = str(node.tag).rpartition(":")[2]
            raise self._fail(node, f"'{node.value[:40]}' is no {what}") from error

    def _mapping(self, node: Any, where: Where, inside: tuple[int, ...]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        inherited: list[dict[str, Any]] = []
        for key_node, value_node in node.value:
            key = str(key_node.value)
            if not isinstance(key_node.value, str) or str(key_node.tag) not in _TAGS["key"]:
                raise self._fail(key_node, "a key must be a plain word")
            if str(key_node.tag) == f"{_YAML}merge":
                inherited += self._inherited(value_node, (*where, key), inside)
                continue
            if key in found:
                raise self._fail(key_node, f"'{key}' stands twice")
            found[key] = self.build(value_node, (*where, key), inside)
            self.lines[(*where, key)] = key_node.start_mark.line + 1
        for other in inherited:
            found = {**other, **found}
        return found

    def _inherited(self, node: Any, where: Where, inside: tuple[int, ...]) -> list[dict[str, Any]]:
        """The mappings that `<<` names; where several have a key, the first of them counts."""
        value = self.build(node, where, inside)
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(v, dict) for v in values):
            raise self._fail(node, "'<<' takes a mapping, or a list of mappings")
        return values
