"""The command, for every test of the command line."""

from __future__ import annotations

import pytest

from tests.cli.commands import Cermet


@pytest.fixture
def cermet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cermet:
    """The command line in this process, its tables not cut to a narrow terminal."""
    monkeypatch.setenv("COLUMNS", "300")
    return Cermet(monkeypatch, capsys)
