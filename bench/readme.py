"""The parts of README.md and of three pages that are generated, each between two markers.

<!-- demo:begin -->        the last record of the demo
<!-- pools:begin -->       the main table of a pool of the zoo
<!-- methods:begin -->     the registry
<!-- bench:begin -->       the records of the benchmark
<!-- NAME:begin -->        in docs/results.md, the whole table of a pool
<!-- literature:begin -->  in docs/literature.md, claims of papers beside the records
<!-- heavier:begin -->     in docs/benchmarks.md, what methods of the shelf compute
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from bench.demo import demo
from bench.literature import literature
from bench.methods import methods
from bench.pools import POOLS, main_table, results
from bench.table import heavier, tables

__all__ = ["PAGES", "PARTS", "expected", "rewrite"]

Renderer = Callable[[Path], str]
"""From the folder of the records to Markdown that ends in a newline."""

PARTS: Mapping[str, Renderer] = {
    "demo": demo,
    "pools": main_table,
    "methods": lambda _: methods("docs/methods/"),
    "bench": tables,
}
"""Name of a marker -> what stands behind it."""

PAGES: Mapping[str, Mapping[str, Renderer]] = {
    "docs/results.md": {name: partial(results, name=name) for name in POOLS},
    "docs/literature.md": {"literature": literature},
    "docs/benchmarks.md": {"heavier": lambda _: heavier()},
}
"""Other files with such parts."""


def expected(text: str, records: Path, parts: Mapping[str, Renderer] = PARTS) -> str:
    """The text of a README as registry and records want it. SystemExit where a marker lacks."""
    for name, render in parts.items():
        text = _filled(text, name, render(records))
    return text


def _filled(text: str, name: str, part: str) -> str:
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"The page has no part between '{begin}' and '{end}'.")
    return f"{before}{begin}\n{part}{end}{after}"


def rewrite(
    readme: Path, records: Path, *, check: bool, parts: Mapping[str, Renderer] = PARTS
) -> int:
    """Write the parts anew, or with `check` only compare; 1 where one differs and stays so."""
    text = readme.read_text("utf-8")
    differing = [
        name for name, render in parts.items() if expected(text, records, {name: render}) != text
    ]
    if not differing:
        return 0
    if check:
        print(
            f"'{readme}' is stale between the markers of {', '.join(differing)}: "
            "run `python -m bench readme`."
        )
        return 1
    readme.write_text(expected(text, records, parts), "utf-8")
    print(f"'{readme}' rewritten.")
    return 0
