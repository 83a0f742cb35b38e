"""Every fenced block of README, CONTRIBUTING, CHANGELOG and docs/ is true of the code."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cermet.core import registry
from tests.docs.blocks import UNRUN, Block, Page, blocks_of
from tests.docs.pool import make_minilm, make_models

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
)

# The blocks that are not run, by their first line: they install, build, measure or train, or
# they show what is not code. Those of the methods' pages are the docstrings' formulas.
LISTED = {
    "README.md": [
        "make demo   # installs into .venv, trains four experts, merges them, shows a table",
        "cermet bench intents --data data          # trains the pool where it is missing",
        "python3 -m venv .venv",
    ],
    "CONTRIBUTING.md": ["make install    # .venv with everything that the tests need"],
    "docs/bench.md": ["cermet bench voices             # a pool of the zoo"],
    "docs/benchmarks.md": ["make bench                                      # everything"],
    "docs/install.md": [
        "python3 -m venv .venv",
        ".venv/bin/pip install torch --index-url https://download.pytorch.org/whl/cpu",
    ],
    "docs/lm-eval.md": [
        "cermet evaluate merged --lm-eval mine --include-path tasks      # tasks/mine.yaml"
    ],
    "docs/zoo.md": [
        "cermet zoo build voices                               # in the cache",
        "cermet_pool: 1",
        "cermet zoo build intents --data data                   # base, experts, multi-task model",
    ],
}


def _blocks(page: str) -> list[Block]:
    return list(blocks_of((ROOT / page).read_text("utf-8"), page))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current folder and home; methods that a page registers go with it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "100")
    own = str(Path(sys.executable).parent)  # as in an activated environment
    monkeypatch.setenv("PATH", own, prepend=os.pathsep)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    registry.all_methods()
    before = dict(registry._registered)
    yield tmp_path
    registry._registered.clear()
    registry._registered.update(before)
    shutil.rmtree(tmp_path)  # README's models are large, and pytest would keep them


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages name, made once; every page gets copies."""
    root = tmp_path_factory.mktemp("models")
    make_models(root)
    return root


@pytest.mark.parametrize("page", PAGES)
def test_blocks_are_true(
    page: str, folder: Path, models: Path, llamas: list[str], merge: Any
) -> None:
    if page == "README.md":
        make_minilm(folder)
    else:
        shutil.copytree(models, folder, symlinks=True, dirs_exist_ok=True)
    if "runs/" in (ROOT / page).read_text("utf-8"):
        shutil.copytree(Path(llamas[0]).parent, folder / "runs")  # trained a little
    runner = Page(merge)
    for block in _blocks(page):
        runner.run(block)


@pytest.mark.parametrize(
    "page", [p for p in PAGES if not p.startswith(("docs/methods/", "docs/codecs/"))]
)
def test_what_is_not_run_is_listed(page: str) -> None:
    unrun = [b.text.splitlines()[0] for b in _blocks(page) if b.kind in UNRUN]
    assert unrun == LISTED.get(page, [])


def test_the_list_names_no_page_that_is_gone() -> None:
    assert set(LISTED) <= set(PAGES)
