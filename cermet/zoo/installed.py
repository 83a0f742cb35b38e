"""Domains of text that every Python installation holds, or that a few rules write.

All but arithmetic are of the version of Python that reads them.
"""

from __future__ import annotations

import ast
import dis
import inspect
import random
import re
import sysconfig
import unicodedata
import warnings
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import groupby
from pathlib import Path
from types import CodeType
from typing import Any

from cermet.zoo.cards import GENERATED, PYTHON, UNICODE
from cermet.zoo.texts import SPLITS, Document, Part, Source, chance

__all__ = ["DATA", "DOMAINS", "technical"]

_APART = {
    "__pycache__", "dist-packages", "encodings", "ensurepip", "idlelib", "lib2to3", "pydoc_data",
    "site-packages", "test", "tests", "tkinter", "turtledemo",
}  # fmt: skip
"""Folders that not every installation has, that are not of it, or that hold hardly any text."""

_ROW = 16  # names of characters in a document
_LINES = 12  # problems in a document


def technical(seed: int) -> Iterator[Document]:
    """Technical English: the language's help topics, and docstrings of the standard library."""
    from pydoc_data.topics import topics

    names = [*(("topic", name) for name in topics), *(("module", name) for name in _modules())]
    for kind, name in _shuffled(names, seed):
        key = f"{kind} {name}" if kind == "topic" else name
        texts = [topics[name]] if kind == "topic" else _docstrings(_tree(name))
        for text in texts:
            yield Document(chance(seed, key), key, text)


def python(seed: int) -> Iterator[Document]:
    """Functions and classes of the standard library, without their docstrings."""
    for name in _shuffled(list(_modules()), seed):
        lines = _source(name).splitlines(keepends=True)
        for node in _tree(name).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                left = set(range(node.lineno - 1, node.end_lineno or node.lineno))
                for one in _documented(node):
                    left -= set(range(one.lineno - 1, one.end_lineno or one.lineno))
                yield Document(chance(seed, name), name, "".join(lines[i] for i in sorted(left)))


def bytecode(seed: int) -> Iterator[Document]:
    """What the compiler makes of functions of the standard library, an instruction a line."""
    for name in _shuffled(list(_modules()), seed):
        for code in _functions(compile(_tree(name), name, "exec", dont_inherit=True)):
            text = "".join(f"{_shown(i)}\n" for i in dis.get_instructions(code))
            yield Document(chance(seed, name), name, f"{code.co_name}:\n{text}")


def names(seed: int) -> Iterator[Document]:
    """Names of characters in Unicode, neighbours together.

    Names that are made by counting, of ideographs and of Hangul syllables, are left out.
    """
    counted = re.compile(r"-[0-9A-F]{3,}$|^HANGUL SYLLABLE ")
    named = ((i, unicodedata.name(chr(i), "")) for i in range(0x110000))
    kept = [(i, name) for i, name in named if name and not counted.search(name)]
    rows = [
        (f"U+{row * _ROW:04X}", "".join(f"{name}\n" for _, name in group))
        for row, group in groupby(kept, key=lambda pair: pair[0] // _ROW)
    ]
    for key, text in _shuffled(rows, seed):
        yield Document(chance(seed, key), key, text)


def arithmetic(seed: int) -> Iterator[Document]:
    """Sums, differences, products and quotients of small whole numbers, without end.

    A problem belongs to one split, whatever the order of its numbers.
    """
    draw = random.Random(seed)
    held: dict[Part, list[str]] = {split: [] for split in SPLITS}
    number = 0
    while True:
        one, other = draw.randrange(100), draw.randrange(1, 100)
        low, high = sorted((one, other))
        sign = draw.choice("+-*/")
        split = chance(seed, f"{'+' if sign in '+-' else '*'} {low} {high}")
        held[split].append(_problem(one, other, sign))
        if len(held[split]) == _LINES:
            number += 1
            yield Document(split, f"sheet {number}", "".join(held[split]))
            held[split].clear()


DOMAINS: Mapping[str, Source] = {
    "python": python,
    "arithmetic": arithmetic,
    "names": names,
    "bytecode": bytecode,
}
"""Domains of experts, in the order in which a pool has them."""

DATA: Mapping[Source, str] = {
    technical: PYTHON,
    python: PYTHON,
    arithmetic: GENERATED,
    names: UNICODE,
    bytecode: PYTHON,
}
"""What each source is made from, for cards."""


def _problem(one: int, other: int, sign: str) -> str:
    """One problem and its answer; differences and quotients are those that come out even."""
    if sign == "+":
        return f"{one} + {other} = {one + other}\n"
    if sign == "-":
        return f"{one + other} - {other} = {one}\n"
    if sign == "*":
        return f"{one} * {other} = {one * other}\n"
    return f"{one * other} / {other} = {one}\n"


def _shuffled(rows: list[Any], seed: int) -> list[Any]:
    return random.Random(seed).sample(rows, len(rows))


@cache
def _modules() -> tuple[str, ...]:
    """Modules of the standard library: paths of their files below its folder, in order."""
    library = Path(sysconfig.get_path("stdlib"))
    found = (file.relative_to(library) for file in library.rglob("*.py"))
    return tuple(sorted(f.as_posix() for f in found if not _APART & set(f.parts[:-1])))


def _source(module: str) -> str:
    """The text of a module; what of it is not UTF-8 is replaced."""
    file = Path(sysconfig.get_path("stdlib")) / module
    return file.read_bytes().decode("utf-8", "replace").replace("\r\n", "\n")


def _tree(module: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes in strings that are not ours
        return ast.parse(_source(module))


def _documented(tree: ast.AST) -> Iterator[ast.stmt]:
    """The docstrings in a tree, in order, but for those that are all that a body holds."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and len(body) > 1 and _is_text(body[0]):
            yield body[0]


def _is_text(node: Any) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _docstrings(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and _is_text(body[0]):
            yield inspect.cleandoc(body[0].value.value)


def _functions(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            if constant.co_flags & inspect.CO_OPTIMIZED:
                yield constant
            yield from _functions(constant)


def _shown(instruction: dis.Instruction) -> str:
    """An instruction as dis prints it, without addresses and orders that differ between runs."""
    value = instruction.argval
    if isinstance(value, CodeType):
        shown = value.co_name
    elif isinstance(value, frozenset):
        shown = f"{{{', '.join(sorted(map(repr, value)))}}}"
    else:
        shown = instruction.argrepr
    return f"{instruction.opname} {shown}".rstrip()
