"""The tables of docs/checkpoints.md: every row names a test, and the test is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_PAGES = ("checkpoints.md",)


def _rows(page: str) -> list[str]:
    """The last cell of every row of the tables that have a column of tests."""
    found, inside = [], False
    for line in (_ROOT / "docs" / page).read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        inside = line.startswith("|") and (inside or cells[-1] == "test")
        if inside and cells[-1] != "test" and set(cells[-1]) != {"-"}:
            found.append(cells[-1])
    return found


def _functions(file: Path) -> set[str]:
    tree = ast.parse(file.read_text("utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("page", _PAGES)
def test_every_row_is_backed_by_a_test(page: str) -> None:
    rows = _rows(page)
    assert len(rows) > 10
    for cell in rows:
        named = re.fullmatch(r"([\w/]+\.py): (test_\w+)", cell)
        assert named, f"{page}: '{cell}' names no test"
        assert named[2] in _functions(_ROOT / "tests" / named[1]), cell
