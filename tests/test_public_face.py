"""The public face: what `cermet` exports, what it costs to import, that everything is explained."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import cermet
from cermet.core import errors

_ROOT = Path(cermet.__file__).parent
_HEAVY = ("torch", "transformers", "numpy", "pydantic", "safetensors", "huggingface_hub", "peft")


def test_all_is_what_can_be_imported() -> None:
    found = {name: getattr(cermet, name) for name in cermet.__all__}
    star: dict[str, object] = {}
    exec("from cermet import *", star)
    assert {k: v for k, v in star.items() if k != "__builtins__"} == found
    assert sorted(cermet.__all__, key=str.lower) == sorted(set(cermet.__all__), key=str.lower)


def test_nothing_else_of_ours_looks_public() -> None:
    ours = {
        name
        for name, value in vars(cermet).items()
        if not name.startswith("_")
        and not inspect.ismodule(value)
        and str(getattr(value, "__module__", "")).startswith("cermet")
    }
    assert ours <= set(cermet.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'cermet' has no attribute 'mrege'"):
        _ = cermet.mrege


def test_every_export_is_documented() -> None:
    for name in cermet.__all__:
        value = getattr(cermet, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), name
            assert "=" not in inspect.getdoc(value).splitlines()[0], (
                f"{name}: a generated docstring"
            )


def test_the_errors_are_exported() -> None:
    assert set(errors.__all__) <= set(cermet.__all__)
    assert all(getattr(cermet, name) is getattr(errors, name) for name in errors.__all__)


def _drawn() -> dict[str, str]:
    """Child -> parent in the tree at the top of core/errors.py."""
    found, path = {}, list[str]()
    for line in (errors.__doc__ or "").splitlines():
        drawn = re.match(r"([│├└─ ]*)([A-Z]\w+Error)\b", line)
        if drawn is None:
            continue
        depth = len(drawn[1]) // 4
        path[depth:] = [drawn[2]]
        if depth:
            found[drawn[2]] = path[depth - 1]
    return found


def test_the_tree_of_errors_is_the_one_that_is_drawn() -> None:
    classes = {n: v for n, v in vars(errors).items() if inspect.isclass(v)}
    assert {
        n: v.__base__.__name__ for n, v in classes.items() if v.__base__ in classes.values()
    } == (_drawn())
    assert set(classes) == set(errors.__all__) == {"CermetError", *_drawn()}


def test_exit_codes_are_those_that_are_drawn() -> None:
    drawn = dict(re.findall(r"(\w+Error) +exit (\d)", errors.__doc__ or ""))
    assert drawn == {"InputError": "2", "DataError": "3", "MachineError": "4"}
    for name, code in drawn.items():
        kinds = [k for k in map(errors.__dict__.get, errors.__all__) if k is not None]
        inside = [k for k in kinds if issubclass(k, getattr(errors, name))]
        assert {k.exit_code for k in inside} == {int(code)}


def _loaded(code: str) -> set[str]:
    """The packages that are imported after some code has run in a process of its own.

    One whose import has only been put off (`cermet.core.later`) is not.
    """
    after = (
        "import sys\n"
        "names = {n for n, m in sys.modules.items() if type(m).__name__ != 'Later'}\n"
        "print(' '.join({n.partition('.')[0] for n in names}))"
    )
    run = subprocess.run(
        [sys.executable, "-c", f"{code}\n{after}"], capture_output=True, text=True, check=True
    )
    return set(run.stdout.splitlines()[-1].split())


_HELP = """
import sys
sys.argv = ["cermet", "--help"]
from cermet.cli.app import main
try:
    main()
except SystemExit as ended:
    assert ended.code == 0
"""


@pytest.mark.parametrize("code", ["import cermet", _HELP, "import cermet.core.errors"])
def test_light_things_import_nothing_heavy(code: str) -> None:
    assert not _loaded(code) & set(_HEAVY)


def test_merging_does_not_import_transformers() -> None:
    assert "transformers" not in _loaded("import cermet; cermet.merge, cermet.verify")


def _nodes(file: Path) -> list[tuple[str, ast.FunctionDef | ast.ClassDef]]:
    """Public functions and classes of a file, and the public methods of those classes."""
    found: list[tuple[str, ast.FunctionDef | ast.ClassDef]] = []
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            found.append((node.name, node))
            for inner in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_"):
                    found.append((f"{node.name}.{inner.name}", inner))
    return found


def _attribute(node: ast.FunctionDef | ast.ClassDef) -> bool:
    """Whether it is a property of a protocol, which its class explains under Attributes."""
    bare = isinstance(node, ast.FunctionDef) and isinstance(node.body[-1], ast.Expr)
    return bare and any(isinstance(d, ast.Name) and d.id == "property" for d in node.decorator_list)


_FILES = sorted(_ROOT.rglob("*.py"))


@pytest.mark.parametrize("file", _FILES, ids=lambda f: str(f.relative_to(_ROOT)))
def test_every_public_function_and_class_has_a_docstring(file: Path) -> None:
    silent = [
        name for name, node in _nodes(file) if not ast.get_docstring(node) and not _attribute(node)
    ]
    assert silent == []


def test_every_module_says_what_it_is_or_is_a_method() -> None:
    for file in _FILES:
        tree = ast.parse(file.read_text("utf-8"))
        if file.parent.parent.name == "methods" or not tree.body:
            continue  # a method's file has the docstring of its function
        assert ast.get_docstring(tree), file.name


def test_every_module_exports_what_it_says() -> None:
    for file in _FILES:
        if file.name == "__main__.py":
            continue
        parts = file.relative_to(_ROOT.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        module = importlib.import_module(name)
        missing = [n for n in getattr(module, "__all__", ()) if not hasattr(module, n)]
        assert missing == [], name
