"""A module that is imported when something of it is first used."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from cermet.core.device import instructions
from cermet.core.later import Later, later, loaded, now, once_loaded


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a package that takes a moment to import, and counts how often it was."""
    name = "a_slow_package"
    package = tmp_path / name
    package.mkdir()
    (package / "__init__.py").write_text(
        "import time, sys\n"
        "time.sleep(0.05)\n"
        "sys.slow_imports = getattr(sys, 'slow_imports', 0) + 1\n"
        "from a_slow_package import inner\n"
        "value = [1]\n"
    )
    (package / "inner.py").write_text("import a_slow_package\nword = 'inner'\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "slow_imports", 0, raising=False)
    yield name
    for module in [m for m in sys.modules if m.partition(".")[0] == name]:
        del sys.modules[module]


def _imports() -> int:
    found: int = sys.slow_imports  # type: ignore[attr-defined]
    return found


def test_it_is_imported_by_the_first_use(slow: str) -> None:
    """Those who asked before and those who ask afterwards see one module."""
    later(slow)
    before = importlib.import_module(slow)
    assert isinstance(before, Later)
    assert not loaded(slow)
    assert find_spec(slow) is not None
    assert _imports() == 0
    assert before.value == [1]
    assert loaded(slow)
    after = importlib.import_module(slow)
    assert not isinstance(after, Later)
    assert before.value is after.value
    assert before.inner is after.inner
    with pytest.raises(AttributeError, match="nothing"):
        _ = before.nothing
    assert _imports() == 1


def test_a_part_of_it_brings_all_of_it(slow: str) -> None:
    later(slow)
    assert importlib.import_module(f"{slow}.inner").word == "inner"
    assert loaded(slow)
    assert _imports() == 1


def test_threads_that_use_it_at_once_wait_for_it(slow: str) -> None:
    later(slow)
    module, found = importlib.import_module(slow), []
    threads = [threading.Thread(target=lambda: found.append(module.value)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[1]] * 8
    assert _imports() == 1


def test_what_is_to_follow_the_import(slow: str) -> None:
    """It is called once, when the module is there; at once where it is there already."""
    later(slow)
    calls: list[str] = []
    once_loaded(slow, lambda: calls.append("waited"))
    assert calls == []
    now(slow)
    now(slow)
    assert calls == ["waited"]
    once_loaded(slow, lambda: calls.append("at once"))
    assert calls == ["waited", "at once"]


def test_what_has_been_imported_stays(slow: str) -> None:
    module = importlib.import_module(slow)
    later(slow)
    assert importlib.import_module(slow) is module
    assert loaded(slow)


def test_the_instructions_are_named_as_torch_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where torch has not been imported to say so."""
    said = instructions()
    monkeypatch.setattr("cermet.core.device.loaded", lambda name: False)
    assert instructions() == said
