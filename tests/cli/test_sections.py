"""Tables of the command line that are not cut, however narrow the terminal."""

from __future__ import annotations

import pytest

from cermet.cli.sections import print_table


def test_a_table_is_wider_than_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    print_table(["name", "value of [all]"], [["a long [name] " * 3, "7"]], left=(0,))
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["name", "value", "of", "[all]"]
    assert row.startswith("a long [name] " * 3)
    assert row.endswith(" 7")
    assert len(head) == len(row)
