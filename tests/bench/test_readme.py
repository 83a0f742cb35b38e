"""The generated parts of README.md: each stands between its markers and is never stale."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from bench.__main__ import main
from bench.demo import demo
from bench.methods import methods
from bench.readme import PAGES, PARTS, expected, rewrite
from bench.records import RECORDS, append
from cermet.core.registry import all_methods
from cermet.demo import DemoTable, Row
from parity.peer import ROOT


def _page(*names: str) -> str:
    parts = "".join(f"\n<!-- {n}:begin -->\nto be replaced: {n}\n<!-- {n}:end -->\n" for n in names)
    return f"# Title\n{parts}\nEnd.\n"


def _row(name: str, kind: str, share: float, seconds: float | None) -> Row:
    accuracy = {"bank": share, "home": share - 0.1}
    kept = {"bank": 1.0, "home": 0.9}
    return Row(name, kind, accuracy, share - 0.05, share - 0.1, kept, seconds, 90_900_000)


def _record(share: float = 0.9, trained: tuple[str, ...] = ("bank",)) -> dict[str, Any]:
    rows = (
        _row("base", "base", 0.5, None),
        _row("expert: bank", "expert", 0.95, None),
        _row("linear", "merge", 0.8, 0.25),
        _row("ties", "merge", share, 1.5),
    )
    return DemoTable(0, "abc", rows, trained, 61.3).record()


@pytest.fixture
def readme(tmp_path: Path) -> Path:
    path = tmp_path / "README.md"
    path.write_text(_page(*PARTS))
    return path


def test_every_part_is_rewritten_between_its_markers_only(readme: Path, tmp_path: Path) -> None:
    assert rewrite(readme, tmp_path, check=False) == 0
    text = readme.read_text()
    for name, render in PARTS.items():
        assert f"<!-- {name}:begin -->\n{render(tmp_path)}<!-- {name}:end -->" in text
    assert "to be replaced" not in text
    assert text.startswith("# Title\n\n<!-- ")
    assert text.endswith("-->\n\nEnd.\n")
    assert rewrite(readme, tmp_path, check=True) == 0


@pytest.mark.parametrize("stale", PARTS)
def test_a_stale_part_fails_the_check_by_name_and_is_left_alone(
    stale: str, readme: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite(readme, tmp_path, check=False)
    text = readme.read_text().replace(f"{stale}:begin -->\n", f"{stale}:begin -->\nby hand\n")
    readme.write_text(text)
    capsys.readouterr()
    assert rewrite(readme, tmp_path, check=True) == 1
    assert f"between the markers of {stale}:" in capsys.readouterr().out
    assert readme.read_text() == text


@pytest.mark.parametrize("lost", PARTS)
def test_a_readme_without_a_marker_is_refused(lost: str, tmp_path: Path) -> None:
    text = _page(*PARTS).replace(f"<!-- {lost}:end -->", "")
    with pytest.raises(SystemExit, match=f"<!-- {lost}:begin -->"):
        expected(text, tmp_path)


def test_the_command_checks_and_rewrites(readme: Path, tmp_path: Path) -> None:
    given = ["readme", "--readme", str(readme), "--records", str(tmp_path)]
    assert main([*given, "--check"]) == 1
    assert main(given) == 0
    assert main([*given, "--check"]) == 0


def test_the_readme_of_this_repository_is_not_stale() -> None:
    assert rewrite(ROOT / "README.md", RECORDS, check=True) == 0
    for page, parts in PAGES.items():
        assert rewrite(ROOT / page, RECORDS, check=True, parts=parts) == 0


def test_the_last_record_of_the_demo_counts(tmp_path: Path) -> None:
    append(tmp_path, _record(0.7))
    append(tmp_path, _record(0.9))
    text = demo(tmp_path)
    assert "| ties | 90.0 | 80.0 | 85.0 | 80.0 | 95.0 | 90.0 | 1.50 | 91 |" in text
    assert "| base | 50.0 | 40.0 | 45.0 | 40.0 | 95.0 | 90.0 |  | 91 |" in text
    assert "| ties | 70.0" not in text


def test_the_demo_shows_its_conclusion_time_and_training(tmp_path: Path) -> None:
    append(tmp_path, _record())
    text = demo(tmp_path)
    assert all(sentence in text for sentence in _record()["conclusion"])
    assert "took 61 s, the training of bank included (seed 0)." in text
    append(tmp_path, _record(trained=()))
    assert "took 61 s; the experts were there already (seed 0)." in demo(tmp_path)


def test_without_a_record_the_demo_says_so(tmp_path: Path) -> None:
    assert demo(tmp_path).startswith("Nothing has been measured yet")


def test_the_table_of_methods_has_a_row_for_each_method() -> None:
    rows = methods("docs/methods/").splitlines()[2:]
    assert [re.match(r"\| \[(\w+)\]", row)[1] for row in rows] == list(all_methods())
    ties = next(row for row in rows if "[ties]" in row)
    assert ties == (
        "| [ties](docs/methods/ties.md) | 1 or more | base | 3 | 12 | Trim the deltas, elect a "
        "sign for each element, average the deltas that have it | "
        "[arXiv:2306.01708](https://arxiv.org/abs/2306.01708) |"
    )
    marked = [row for row in rows if "| Experimental: " in row]
    assert len(marked) == sum(bool(m.experimental) for m in all_methods().values()) > 0
