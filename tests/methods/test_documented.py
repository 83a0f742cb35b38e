"""Every method is one page of a textbook: its sections, its parameters, an example that runs."""

from __future__ import annotations

import doctest
import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest

from cermet.core.registry import Method, all_factor_methods, all_transforms
from tests.methods.forms import METHODS

SECTIONS = (
    "Maths",
    "Inputs",
    "Parameters",
    "Properties",
    "When",
    "Example",
    "Departures",
)
_TRANSFORMS = all_transforms()
_ADAPTERS = all_factor_methods()
_every_method = pytest.mark.parametrize(
    "method",
    [*METHODS.values(), *_TRANSFORMS.values(), *_ADAPTERS.values()],
    ids=[*METHODS, *(f"transform {name}" for name in _TRANSFORMS), *_ADAPTERS],
)
_HEADING = re.compile(r"([A-Z][a-z]+) +(?=\S)")


def _page(method: Method) -> str:
    return inspect.cleandoc(method.function.__doc__ or "")


def sections(method: Method) -> dict[str, str]:
    """The sections of a method's docstring, each without its heading."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in _page(method).splitlines()[1:]:
        heading = _HEADING.match(line)
        if heading is not None:
            name = heading[1]
            line = " " * heading.end() + line[heading.end() :]
        found.setdefault(name, []).append(line)
    return {key: "\n".join(lines) for key, lines in found.items() if key}


@_every_method
def test_every_section_stands_in_order(method: Method) -> None:
    found = sections(method)
    assert tuple(found) == SECTIONS
    assert all(text.strip() for text in found.values())


@_every_method
def test_the_summary_is_one_sentence(method: Method) -> None:
    summary = method.summary
    assert summary.endswith(".")
    assert ". " not in summary
    assert summary[0].isupper()
    assert _page(method).splitlines()[1] == ""


@_every_method
def test_every_parameter_is_explained(method: Method) -> None:
    """In the method's own words, or in those of the method that it points to."""
    text = sections(method)["Parameters"]
    for other in re.findall(r"\bas (?:in )?(\w+)", text):
        text += sections(METHODS[other])["Parameters"]
        for further in re.findall(r"\bas (?:in )?(\w+)", text):
            text += sections(METHODS[further])["Parameters"]
    missing = [p for p in method.parameters if not re.search(rf"\b{p}\b", text)]
    assert not missing


@_every_method
def test_the_example_is_true(
    method: Method, merge: Callable[..., Any], merge_lora: Callable[..., Any]
) -> None:
    text = sections(method)["Example"]
    name = f"example of {method.name}"
    example = doctest.DocTestParser().get_doctest(
        text, {"merge": merge, "merge_lora": merge_lora}, name, None, 0
    )
    assert example.examples
    if method.kind == "merge":
        assert all(f'"{method.name}"' in e.source for e in example.examples)
    assert f'"{method.name}"' in example.examples[0].source
    report: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)
    assert runner.run(example, out=report.append).failed == 0, "".join(report)


@_every_method
def test_the_file_is_named_as_the_method(method: Method) -> None:
    """File stem = function name = recipe name, and no page is long."""
    lines, _ = inspect.getsourcelines(inspect.getmodule(method.function))
    assert method.function.__module__.rsplit(".", 1)[1] == method.name == method.function.__name__
    assert len(lines) < 120
    assert method.source
