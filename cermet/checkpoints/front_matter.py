"""The front matter of a model card: what a README.md says of its model to the hub."""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["CARD", "FrontMatter", "is_repository", "read_front_matter"]

CARD = "README.md"
"""Name of a model's card in its folder."""

# As the hub finds it; its client's own pattern would cost a merge the import of all of the client.
_BLOCK = re.compile(r"\s*---\r?\n(.*?)^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)
_LARGEST = 2_000_000  # bytes of a card that are read: some list thousands of scores
_LONGEST = 300  # characters of one value
_MOST = 200  # values of one list


@dataclass(frozen=True)
class FrontMatter:
    """What a card states, in one form; empty where it states nothing that can be read.

    license: identifiers of the hub, in small letters. base_model: hub names.
    problem: why the front matter, or a part of it, could not be used.
    """

    license: tuple[str, ...] = ()
    license_name: str | None = None
    license_link: str | None = None
    base_model: tuple[str, ...] = ()
    library_name: str | None = None
    pipeline_tag: str | None = None
    language: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    problem: str | None = None


def read_front_matter(folder: Path) -> FrontMatter:
    """What the card in a folder states; never an error, whatever the file holds."""
    path = folder / CARD
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return FrontMatter()
        with path.open("rb") as file:
            text = file.read(_LARGEST).decode("utf-8-sig", "replace")
    except FileNotFoundError:
        return FrontMatter()
    except OSError as error:
        return FrontMatter(problem=f"'{path}' cannot be read ({error.strerror or error})")
    try:
        data = _parsed(text)
    except Exception as error:  # whatever a parser finds in a card must not end a merge
        problem = f"the front matter of '{path}' is not valid YAML ({type(error).__name__})"
        return FrontMatter(problem=problem)
    if not isinstance(data, dict):
        return FrontMatter(problem=f"the front matter of '{path}' is not a mapping")
    return _checked(data, path)


def _parsed(text: str) -> Any:
    import yaml

    found = _BLOCK.match(text)
    if found is None:
        return {}
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # lists of scores take seconds without C
    return yaml.load(found[1], loader) or {}


def _checked(data: Mapping[Any, Any], path: Path) -> FrontMatter:
    """The fields that have the form which the hub asks for."""
    wrong: list[str] = []

    def texts(key: str) -> tuple[str, ...]:
        value = data.get(key)
        values = [] if value is None else value if isinstance(value, list) else [value]
        good = [v.strip() for v in values[:_MOST] if isinstance(v, str) and _plain(v)]
        if len(good) < len(values):
            wrong.append(key)
        return tuple(dict.fromkeys(good))

    def text(key: str) -> str | None:
        found = texts(key)
        return found[0] if found else None

    fields = FrontMatter(
        license=tuple(name.lower() for name in texts("license")),
        license_name=text("license_name"),
        license_link=text("license_link"),
        base_model=tuple(name for name in texts("base_model") if is_repository(name)),
        library_name=text("library_name"),
        pipeline_tag=text("pipeline_tag"),
        language=texts("language"),
        tags=texts("tags"),
    )
    if not wrong:
        return fields
    named = ", ".join(f"'{key}'" for key in wrong)
    problem = f"the front matter of '{path}' has no text, or too much, under {named}"
    return FrontMatter(**{**vars(fields), "problem": problem})


def _plain(value: str) -> bool:
    """Whether a value is one short line."""
    return 0 < len(value.strip()) <= _LONGEST and value.strip().isprintable()


def is_repository(name: str) -> bool:
    """Whether a text has the form `owner/name` of a repository on the hub."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return "/" in name
