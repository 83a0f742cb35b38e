"""Names of models that lead nowhere: an InputError in one line, quickly, with or without a hub."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import huggingface_hub
import huggingface_hub.constants as constants
import pytest

from cermet import api
from cermet.core.errors import InputError, RecipeError
from tests.reliability.malformed import (
    RECIPE,
    Case,
    Pool,
    bounded,
    cases,
    each,
    holds_message,
    refused,
)

REMOTE = "an-org/a-model"


def _name(name: str, of: str = "<b>") -> Any:
    """A recipe with another name in the place of a model's, quoted as YAML may need it."""
    quoted = "'" + name.replace("'", "''") + "'"
    return lambda pool: setattr(pool, "recipe", RECIPE.replace(of, quoted))


CASES: list[Case] = [
    *cases(
        "names of models",
        InputError,
        "no folder",
        {
            "relative": _name("./nowhere"),
            "parent": _name("../nowhere"),
            "absolute": _name("/nowhere/at/all"),
            "one word": _name("nowhere"),
            "three parts": _name("a/b/c"),
            "home of nobody": _name("~nobody-at-all/x"),
            "a web address": _name("https://example.com/a/b"),
            "Windows": _name("C:\\models\\a"),
            "spaces": _name("an org/a model"),
            "line break": lambda pool: setattr(
                pool, "recipe", RECIPE.replace("<b>", '"a\\nb/c"')
            ),
            "zero": lambda pool: setattr(pool, "recipe", RECIPE.replace("<b>", '"a\\0b/c"')),
            "5,000 letters": _name("x" * 5_000),
            "5,000 letters, twice": _name("x" * 5_000 + "/" + "y" * 5_000),
            "5,000 parts": _name("x/" * 5_000),
            "letters of no alphabet": _name("组织/模型"),
            "base": _name("./nowhere", of="<base>"),
        },
    ),
    *cases(
        "names of models",
        RecipeError,
        "recipe.yaml:7",
        {
            "empty": _name(""),
            "adapter on nothing": _name("+adapter"),
            "nothing on a model": _name("model+"),
            "no revision": _name("model@"),
            "two revisions": _name("model@a@b"),
            "revision alone": _name("@main"),
        },
    ),
    *cases(
        "names of models",
        InputError,
        "@main",
        {"revision of a folder": lambda pool: pool.swap("<b>", "<b>@main")},
    ),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever connects fails at once."""

    def refuse(*args: object, **options: object) -> None:
        raise ConnectionError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@each(CASES)
def test_is_refused(case: Case, tmp_path: Path) -> None:
    refused(case, tmp_path)


def _remote() -> dict[str, Any]:
    return {"merge_method": "passthrough", "models": [{"model": REMOTE}]}


def _is_one_line() -> str:
    with bounded(), pytest.raises(InputError) as caught:
        api.plan(_remote())
    holds_message(caught.value, InputError, (f"'{REMOTE}'", "hub"))
    return str(caught.value)


def test_the_hub_is_not_asked_where_the_user_is_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "LocalEntryNotFoundError" in _is_one_line()


def test_a_machine_without_a_network_waits_for_nothing() -> None:
    assert "Error" in _is_one_line()


@pytest.mark.parametrize(
    "error",
    [ConnectionError("x"), TimeoutError("x"), OSError(28, "full"), RuntimeError("x"),
     ValueError("x"), KeyError("x"), MemoryError()],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_a_hub_that_fails_is_one_line(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its client raises, and it is asked within a time."""
    asked: list[dict[str, Any]] = []

    def fail(name: str, **options: Any) -> str:
        asked.append(options)
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    assert type(error).__name__ in _is_one_line()
    assert 0 < asked[0]["etag_timeout"] <= 30


def test_what_the_hub_gives_is_checked_like_a_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pool = Pool(tmp_path)
    pool.write("a/model.safetensors", b"<html>not found</html>")
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda *args, **options: str(pool.root / "a")
    )
    with pytest.raises(Exception, match=r"model\.safetensors' is cut short or not a safetensors"):
        api.plan(_remote())
