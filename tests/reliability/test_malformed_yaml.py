"""Recipes that cannot be read: a RecipeError with the file, and the line where there is one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cermet import api
from cermet.core.errors import CermetError, RecipeError
from tests.reliability.malformed import RECIPE, Case, Pool, cases, each, holds_message, refused

FILE = "recipe.yaml"
Spoil = Callable[[Pool], object]


def _swap(old: str, new: str) -> Spoil:
    return lambda pool: pool.swap(old, new)


def _text(text: str | bytes) -> Spoil:
    return lambda pool: setattr(pool, "recipe", text)


def _add(text: str) -> Spoil:
    """More lines, from line 11 on."""
    return _text(RECIPE + text)


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)

CASES: list[Case] = [
    *cases(
        "bad YAML",
        RecipeError,
        f"{FILE}:",
        {
            "an open list": _text("models: [a, b\n"),
            "an open quote": _text("merge_method: 'linear\n"),
            "tabs": _text("models:\n\t- model: a\n"),
            "bad indent": _text("models:\n  - model: a\n - model: b\n"),
            "two documents": _add("---\n" + RECIPE),
            "two colons": _text("a: b: c\n"),
            "unknown anchor": _swap("<base>", "*base"),
            "an anchor in itself": _text("a: &a\n  b: *a\n"),
            "a list in itself": _text("models: &m [*m]\n"),
            "a merge key in itself": _text("a: &a {<<: *a}\n"),
            "a billion laughs": _text(LAUGHS),
            "nested deep": _text("a: " + "[" * 5_000),
            "mappings nested deep": _text("a: " + "{b: " * 5_000),
            "dashes nested deep": _text("- " * 100_000),
            "questions nested deep": _text("? " * 100_000),
            "fifty deep": _text("a: " + "[" * 50 + "]" * 50),
            "a list as a key": _text("? [a]\n: b\n"),
            "a key twice": _add("dtype: float16\n"),
            "a key twice, below": _swap("weight: 0.5", "weight: 0.5\n      weight: 1"),
            "parts by the million": _text("- a\n" * 250_000),
            "parts in one line": _text("[" + "a," * 500_000 + "a]"),
            "python object": _swap("float32", "!!python/object:os.system {}"),
            "python call": _swap("float32", "!!python/object/apply:os.system [ls]"),
            "python name": _swap("float32", "!!python/name:os.system x"),
            "python name as a key": _text("!!python/name:os.system x: 1\n"),
            "own tag": _swap("0.5", "!weight 0.5"),
            "own tag on a list": _swap("0.5", "!weights [0.5]"),
            "set": _swap("0.5", "!!set {a}"),
            "binary": _swap("float32", "!!binary aGk="),
            "no number": _swap("0.5", "!!float half"),
            "no date": _swap("0.5", "2001-99-99"),
            "digits by the thousand": _swap("0.5", "9" * 5_000),
            "hexadecimal by the thousand": _swap("0.5", "0x" + "f" * 9_000),
        },
    ),
    *cases(
        "bad YAML",
        RecipeError,
        FILE,
        {
            "empty": _text(""),
            "a comment": _text("# nothing\n"),
            "null": _text("null\n"),
            "a list": _text("- model: a\n"),
            "a word": _text("linear\n"),
            "a number": _text("5\n"),
            "over 1 MB": _text("# " + "x" * (1 << 20)),
            "not UTF-8": _text(b"merge_method: \xff\xfe\n"),
            "UTF-16": _text(RECIPE.encode("utf-16")),
            "binary file": _text(bytes(range(256)) * 10),
            "zero bytes": _text(b"\0" * 100),
        },
    ),
]  # fmt: skip


@each(CASES)
def test_is_refused(case: Case, tmp_path: Path) -> None:
    refused(case, tmp_path)


def _loop() -> dict[str, object]:
    found: dict[str, object] = {"merge_method": "linear"}
    found["models"] = found
    return found


def _deep(depth: int) -> dict[str, object]:
    found: dict[str, object] = {}
    for _ in range(depth):
        found = {"a": found}
    return found


MAPPINGS: dict[str, Callable[[], dict[object, object]]] = {
    "in itself": _loop,
    "500 deep": lambda: _deep(500),
    "100,000 deep": lambda: _deep(100_000),
    "keys that are pairs": lambda: {("a", "b"): 1},
    "digits by the thousand": lambda: {"merge_method": "linear", "seed": 10**5000},
    "empty": dict,
    "not a number": lambda: {"merge_method": "linear", "models": [], "seed": float("nan")},
}  # fmt: skip


@pytest.mark.parametrize("name", MAPPINGS)
def test_mappings_are_refused_too(name: str) -> None:
    with pytest.raises(CermetError) as caught:
        api.plan(MAPPINGS[name]())
    holds_message(caught.value, RecipeError, ("recipe",))


def test_a_recipe_that_never_ends_is_refused(tmp_path: Path) -> None:
    """A device gives as many bytes as one reads."""
    (tmp_path / "recipe.yaml").symlink_to("/dev/zero")
    with pytest.raises(RecipeError, match="larger than 1 MB") as caught:
        api.plan(tmp_path / "recipe.yaml")
    assert isinstance(caught.value, CermetError)
