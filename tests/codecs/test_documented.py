"""Every codec is a page: its sections, its parameters, an example that runs, a row in the docs."""

from __future__ import annotations

import doctest
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from cermet.core.codec import all_codecs

SECTIONS = ("Maths", "Keeps", "Parameters", "Error", "When", "Example", "Departures")
DOCS = Path(__file__).resolve().parents[2] / "docs"
_every_codec = pytest.mark.parametrize("name", sorted(all_codecs()))


def _page(name: str) -> str:
    return inspect.cleandoc(all_codecs()[name].function.__doc__ or "")


@_every_codec
def test_sections_and_parameters(name: str) -> None:
    page = _page(name)
    found = tuple(re.findall(r"^([A-Z][a-z]+) +(?=\S)", page.partition("\n")[2], re.MULTILINE))
    assert found == SECTIONS
    said = page[page.index("Parameters") : page.index("Error  ")]
    for parameter in all_codecs()[name].parameters:
        assert re.search(rf"\b{parameter}\b|\bto mlp_2\b", said), parameter


@_every_codec
def test_the_example_runs(name: str, doctest_namespace: dict[str, Any]) -> None:
    page = _page(name)
    example = page[page.index("Example") : page.index("Departures")]
    text = example.replace("Example", " " * len("Example"), 1)
    test = doctest.DocTestParser().get_doctest(text, dict(doctest_namespace), name, None, None)
    assert test.examples
    assert doctest.DocTestRunner(verbose=False).run(test).failed == 0


@_every_codec
def test_the_pages_name_it(name: str) -> None:
    for page in ("compress.md", "delta-archive.md"):
        assert f"`{name}`" in (DOCS / page).read_text("utf-8")
