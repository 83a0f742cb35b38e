"""The checker of blocks catches what is not true: each kind of block can fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.docs.blocks import Page, blocks_of
from tests.docs.pool import make_models

RECIPE = "merge_method: linear\nmodels: [{model: models/math, parameters: {weight: 1}}]\n"
TYPO = RECIPE.replace("weight", "weigth")


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, merge: Any) -> Page:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    make_models(tmp_path)
    return Page(merge)


def _run(page: Page, text: str) -> None:
    for block in blocks_of(text, "page.md"):
        page.run(block)


def _fenced(kind: str, text: str) -> str:
    return f"Words.\n\n```{kind}\n{text}```\n"


TRUE = {
    "python": _fenced("python", "x = 1\nassert x == 1\n"),
    "pycon": _fenced("pycon", ">>> 1 + 1\n2\n"),
    "names are shared": _fenced("python", "x = 5\n") + _fenced("pycon", ">>> x\n5\n"),
    "yaml": _fenced("yaml", RECIPE),
    "refused": "<!-- refused: RecipeError -->\n" + _fenced("yaml", TYPO).removeprefix("Words.\n\n"),
    "console": _fenced("console", "$ cermet --version\ncermet 0.1.0\n$ echo $?\n0\n"),
    "anything": _fenced("console", "$ cermet --version\ncermet ...\n"),
    "seconds": _fenced('yaml title="r.yaml"', RECIPE)
    + _fenced(
        "console",
        "$ cermet merge r.yaml out\n"
        "out: 39 tensors, 51.6 kB, merged in 999.00 s (and 0.00 s until all was on the disk).\n",
    ),
    "json": _fenced("json", "{}\n"),
    "toml": _fenced("toml", "a = 1\n"),
}
FALSE = {
    "python": _fenced("python", "assert 1 == 2\n"),
    "pycon": _fenced("pycon", ">>> 1 + 1\n3\n"),
    "pycon without prompt": _fenced("pycon", "1 + 1\n"),
    "yaml": _fenced("yaml", TYPO),
    "refused for another reason": "<!-- refused: FormatError -->\n```yaml\n" + TYPO + "```\n",
    "refused but planned": "<!-- refused: RecipeError -->\n```yaml\n" + RECIPE + "```\n",
    "console": _fenced("console", "$ cermet --version\ncermet 9.9.9\n"),
    "console that prints nothing": _fenced("console", "$ cermet --version\n"),
    "exit code": _fenced("console", "$ cermet methods nought\n...\n$ echo $?\n0\n"),
    "another command": _fenced("console", "$ rm out\n"),
    "output first": _fenced("console", "cermet 0.1.0\n"),
    "json": _fenced("json", "{\n"),
    "toml": _fenced("toml", "a = \n"),
    "test in a file": _fenced('python title="test_x.py"', "def test_x() -> None:\n    assert 0\n"),
    "unknown kind": _fenced("ruby", "puts 1\n"),
    "no kind": _fenced("", "words\n"),
}


@pytest.mark.parametrize("name", TRUE)
def test_what_is_true_passes(name: str, page: Page) -> None:
    _run(page, TRUE[name])


@pytest.mark.parametrize("name", FALSE)
def test_what_is_false_fails(name: str, page: Page) -> None:
    with pytest.raises((Exception, pytest.fail.Exception)):
        _run(page, FALSE[name])


def test_a_failure_names_the_page_and_the_line(page: Page) -> None:
    with pytest.raises(AssertionError) as caught:
        _run(page, FALSE["python"])
    assert caught.value.__notes__ == ["in the block at page.md:3"]


def test_a_block_without_an_end_is_refused() -> None:
    with pytest.raises(AssertionError, match=r"page\.md:1: this block has no end"):
        list(blocks_of("```python\nx = 1\n", "page.md"))


def test_a_fence_inside_a_longer_fence_is_text() -> None:
    found = list(blocks_of("````text\n```python\n1/0\n```\n````\n", "page.md"))
    assert [(b.kind, b.text) for b in found] == [("text", "```python\n1/0\n```\n")]


def test_blocks_inside_lists_lose_their_margin() -> None:
    (found,) = blocks_of("- words\n\n    ```python\n    x = 1\n      \n    ```\n", "page.md")
    assert found.text == "x = 1\n  \n"
