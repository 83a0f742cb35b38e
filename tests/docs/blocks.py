"""Fenced code blocks of a page, and how each kind of them is executed or checked.

    python          run, all of a page in one namespace
    python title=   written under that name; what stands under cermet/methods/ is registered
                    and its doctest run, and the tests of a test_*.py are run
    pycon           run as a doctest in the page's namespace
    yaml            a recipe: written (as its title, if it has one) and planned; a pool.yaml is read
    console         each `$ ` line is run through the command line in this process; what it
                    prints must be what stands below it (`...` stands for anything, and
                    seconds, free space and losses may differ)
    json, toml      parsed
    sh, text        not run: allowed only where tests/docs/test_blocks.py lists the block

A comment `<!-- refused: RecipeError -->` before a recipe says that it must be refused so.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import json
import re
import runpy
import shlex
import signal
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

import cermet
from cermet.cli.app import main
from cermet.core.registry import find_method, load_plugin
from cermet.recipes.pool import POOL, read_pool

__all__ = ["UNRUN", "Block", "Page", "blocks_of"]

UNRUN = frozenset({"sh", "text"})
_FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>```+)(?P<info>.*)$")
_REFUSED = re.compile(r"<!-- refused: (\w+) -->")
_TITLE = re.compile(r'title="([^"]+)"')
_CHANGING = (
    (re.compile(r"\d+\.\d+ s\b"), "# s"),
    (re.compile(r"about \d+ s\b"), "about # s"),
    (re.compile(r"\d+\.\d+ [kMGT]?B free"), "# GB free"),
    (re.compile(r"\d+\.\d+ +(\d+%|-)$", re.MULTILINE), "# #"),  # loss and agreement
    (re.compile(r"\(\d+\.\d+ nats\)"), "(# nats)"),
    (re.compile(r"\d+\.\d{3} +\d+%( +\d\.\d{3})?"), "# #"),  # loss, right ones and share
    (re.compile(r"\d+\.\d{3} \(step"), "# (step"),
    (re.compile(r"(loss is|soup|model) \d+\.\d{3}"), r"\1 #"),
    (re.compile(r" +[\d,]+ (tokens|examples)$", re.MULTILINE), r" # \1"),  # of a second
    (re.compile(r"memory: [\d,]+ MB"), "memory: # MB"),
    (re.compile(r"( +0\.\d{3})+$", re.MULTILINE), " #"),  # the shares of a layer
)
_OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass(frozen=True)
class Block:
    """One fenced block and where it begins."""

    kind: str
    text: str
    place: str
    line: int
    title: str | None
    refused: str | None


def blocks_of(text: str, place: str) -> Iterator[Block]:
    """The fenced blocks of a Markdown page, in order."""
    inside: re.Match[str] | None = None
    held: list[str] = []
    begin, before = 0, ""
    for number, line in enumerate(text.splitlines(), start=1):
        found = _FENCE.match(line)
        if inside is None and found is not None:
            inside, held, begin = found, [], number
        elif inside is not None and line.strip() == inside["ticks"]:
            info, refused = inside["info"], _REFUSED.search(before)
            title = _TITLE.search(info)
            yield Block(
                info.split()[0] if info.strip() else "",
                "".join(f"{row.removeprefix(inside['indent'])}\n" for row in held),
                f"{place}:{begin}",
                begin,
                title[1] if title else None,
                refused[1] if refused else None,
            )
            inside, before = None, ""
        elif inside is not None:
            held.append(line)
        elif line.strip():
            before = line
    assert inside is None, f"{place}:{begin}: this block has no end"


@dataclass
class Page:
    """Runs the blocks of one page, in order, in the current folder."""

    merge: Any
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "page"})
    status: int = 0

    def run(self, block: Block) -> None:
        """Run or check one block; AssertionError, naming its place, where it is not true."""
        runner = getattr(self, f"_{block.kind}", None)
        assert runner is not None, f"{block.place}: a block of kind '{block.kind}' is not known"
        try:
            runner(block)
        except Exception as error:
            error.add_note(f"in the block at {block.place}")
            raise

    def _sh(self, block: Block) -> None:
        """Listed by test_blocks."""

    _text = _sh

    def _json(self, block: Block) -> None:
        json.loads(block.text)

    def _toml(self, block: Block) -> None:
        tomllib.loads(block.text)

    def _python(self, block: Block) -> None:
        if block.title is None:
            code = "\n" * block.line + block.text
            exec(compile(code, block.place, "exec"), self.names)
            return
        path = Path(block.title)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text, "utf-8")
        if path.name.startswith("test_"):
            names = runpy.run_path(str(path))
            for test in [v for k, v in names.items() if k.startswith("test_")]:
                test()
        elif path.is_relative_to("cermet/methods"):
            load_plugin(path)
            function = find_method(path.stem).function
            for example in doctest.DocTestFinder().find(function, globs={"merge": self.merge}):
                _examine(example)

    def _pycon(self, block: Block) -> None:
        test = doctest.DocTestParser().get_doctest(
            block.text, self.names, block.place, block.place, block.line
        )
        assert test.examples, f"{block.place}: no line begins with >>>"
        test.globs = self.names  # the page's own, so that later blocks see what this one made
        _examine(test)

    def _yaml(self, block: Block) -> None:
        path = Path(block.title or "recipe.yaml")
        path.write_text(block.text, "utf-8")
        if path.name == POOL:
            read_pool(path)
            return
        if block.refused is None:
            cermet.plan(path)
            return
        with pytest.raises(getattr(cermet, block.refused)):
            cermet.plan(path)

    def _console(self, block: Block) -> None:
        for command, wanted in _sessions(block):
            printed = self._shell(command)
            assert _alike(wanted, printed), (
                f"{block.place}: `{command}` prints\n{printed}\nand the page says\n{wanted}"
            )

    def _shell(self, command: str) -> str:
        words = shlex.split(command)
        if words == ["echo", "$?"]:
            return f"{self.status}\n"
        if words[0] == "ls":
            found = sorted(p.name for p in Path(words[1]).iterdir())
            return "".join(f"{name}\n" for name in found if not name.startswith("."))
        assert words[0] == "cermet", f"`{command}` cannot be run here"
        self.status, printed = _cermet(words)
        return printed


def _examine(test: doctest.DocTest) -> None:
    said = io.StringIO()
    failed = doctest.DocTestRunner(optionflags=_OPTIONS).run(
        test, out=said.write, clear_globs=False
    )
    assert not failed.failed, said.getvalue()


def _sessions(block: Block) -> Iterator[tuple[str, str]]:
    """The commands of a console block and what they print."""
    head, *parts = re.split(r"^\$ ", block.text, flags=re.MULTILINE)
    assert not head.strip(), f"{block.place}: the first line has to begin with '$ '"
    for part in parts:
        command, _, printed = part.partition("\n")
        yield command, printed


def _alike(wanted: str, printed: str) -> bool:
    return doctest.OutputChecker().check_output(
        _levelled(wanted), _levelled(printed), doctest.ELLIPSIS
    )


def _levelled(text: str) -> str:
    """Text without what may differ from run to run, and without blanks at the ends of lines."""
    text = "\n".join(line.rstrip() for line in text.rstrip().splitlines())
    for pattern, sign in _CHANGING:
        text = pattern.sub(sign, text)
    return f"{text}\n"


def _cermet(words: list[str]) -> tuple[int, str]:
    """Exit status of a command, and all that it prints."""
    said = io.StringIO()
    handler = signal.getsignal(signal.SIGTERM)
    with (
        mock.patch.object(sys, "argv", words),
        # under `python -m pytest` the command would call itself by that
        mock.patch.object(sys.modules["__main__"], "__package__", None),
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(said),
    ):
        try:
            main()
        except SystemExit as end:
            status = end.code
        finally:
            signal.signal(signal.SIGTERM, handler)
    assert isinstance(status, int)
    return status, said.getvalue()
