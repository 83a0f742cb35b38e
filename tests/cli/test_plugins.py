"""Methods from outside: `--plugin file.py` and entry points, under the contract of all others."""

from __future__ import annotations

import importlib.metadata
import json
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import cermet as package
from cermet.core import registry
from cermet.core.errors import CermetError, InputError, MethodError
from tests.cli.commands import Cermet, ready
from tests.recipes.pools import llama

_EXAMPLE = '''\
"""One method of our own: the deltas, each cut off at a largest size."""

import cermet


@cermet.method(on="deltas", source="this file", properties=("permutation",))
def clipped(deltas, *, weight: cermet.PerModel, most: float = 0.1):
    """Add the deltas, no element of which moves by more than `most`.

    Maths       \\u03b8 = \\u03b8\\u2080 + \\u03a3 w\\u1d62 clip(\\u03c4\\u1d62, -m, m)
    """
    return sum(w * d.clamp(-most, most) for w, d in zip(weight, deltas))
'''

_RECIPE = """\
merge_method: clipped
base_model: $a
models:
  - {model: $b, parameters: {weight: 1.0}}
  - {model: $c, parameters: {weight: 0.5}}
parameters: {most: [0.05, 0.2]}
"""


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """Leave the registry as it was found."""
    before, steps = dict(registry.all_methods()), dict(registry.all_transforms())
    yield
    registry._walk.cache_clear()
    registry._registered.clear()
    registry._registered.update(before)
    registry._transforms.clear()
    registry._transforms.update(steps)


def _plugin(folder: Path, text: str) -> Path:
    path = folder / "own.py"
    path.write_text(text, "utf-8")
    return path


def test_a_method_of_our_own_merges(cermet: Cermet, tmp_path: Path) -> None:
    recipe, plugin = ready(tmp_path, _RECIPE), _plugin(tmp_path, _EXAMPLE)
    assert "There is no method 'clipped'" in cermet("merge", recipe, tmp_path / "out").said
    assert cermet("plan", recipe, "--plugin", plugin).code == 0
    done = cermet("merge", recipe, tmp_path / "out", "--plugin", plugin)
    assert (done.code, done.err) == (0, "")
    name = "model.layers.1.mlp.up_proj.weight"  # of the last layer: no more than 0.2
    base, *others = (llama(i)[name] for i in range(3))
    deltas = [(o - base).clamp(-0.2, 0.2) for o in others]
    expected = base + deltas[0] + 0.5 * deltas[1]
    torch.testing.assert_close(package.open(tmp_path / "out")[name], expected)
    assert "(this file): add the deltas, no" in (tmp_path / "out" / "README.md").read_text()


def test_it_is_listed_explained_and_checked_like_all_others(cermet: Cermet, tmp_path: Path) -> None:
    plugin = _plugin(tmp_path, _EXAMPLE)
    assert "\nclipped " in cermet("methods", "--plugin", plugin).out
    told = cermet("methods", "clipped", "--plugin", plugin).out
    assert "float, one for each model; required" in told
    assert "float; default 0.1" in told
    recipe = ready(tmp_path, _RECIPE.replace("most", "mots"))
    wrong = cermet("merge", recipe, tmp_path / "out", "--plugin", plugin)
    assert wrong.code == 2
    assert "'clipped' takes no 'mots'" in wrong.said
    assert "Did you mean 'most'?" in wrong.said


def test_it_may_be_named_twice(cermet: Cermet, tmp_path: Path) -> None:
    plugin = _plugin(tmp_path, _EXAMPLE)
    assert cermet("methods", "clipped", "--plugin", plugin, "--plugin", plugin).code == 0


def test_it_works_in_memory(tmp_path: Path) -> None:
    registry.load_plugin(_plugin(tmp_path, _EXAMPLE))
    base, expert = {"x": torch.zeros(3)}, {"x": torch.tensor([1.0, -0.3, 0.01])}
    found = package.merge_tensors("clipped", base, [expert], weight=2, most=0.2)
    assert found["x"].tolist() == pytest.approx([0.4, -0.4, 0.02])


_HEAD = 'import cermet\n\n@cermet.method(on="deltas", source="x")\ndef own(deltas{more}):\n'
_BODY = '    """Nothing."""\n    return deltas[0]\n'
_BROKEN = {
    "raises": ("raise RuntimeError('no\\nluck')", "could not be imported: no luck."),
    "raises nothing to say": ("assert False", "could not be imported: AssertionError."),
    "leaves": ("import sys; sys.exit('bye')", "could not be imported: bye."),
    "lacks a library": ("import not_there", "No module named 'not_there'"),
    "is not Python": ("def x(:\n", "could not be imported: "),
    "registers nothing": ("import cermet\n", "registers no method (see @cermet.method)."),
    "has no docstring": (
        _HEAD.format(more="") + "    return deltas[0]\n",
        "The method 'own' has no docstring",
    ),
    "has the name of another": (
        (_HEAD.format(more="") + _BODY).replace("def own", "def ties"),
        "There is a method 'ties' already",
    ),
    "takes a text": (
        _HEAD.format(more=", *, kind: str = 'a'") + _BODY,
        "a bool, a Literal of words, or a cermet.PerModel",
    ),
}


@pytest.mark.parametrize("case", _BROKEN)
def test_a_plugin_that_is_wrong_is_one_sentence(case: str, cermet: Cermet, tmp_path: Path) -> None:
    text, words = _BROKEN[case]
    plugin = _plugin(tmp_path, text)
    done = cermet("methods", "--plugin", plugin)
    assert (done.code, done.out) == (2, "")
    assert done.said.startswith(f"cermet: The plugin '{plugin}'")
    assert words in done.said


_WORK = {
    "raises": ("    raise ValueError('odd')", "'own' failed on tensor 'x': ValueError: odd."),
    "raises a bare error": ("    raise KeyError", "'own' failed on tensor 'x': KeyError."),
    "returns all models": ("    return deltas", "'own' returned [2, 4] for a block [2, 4]"),
    "returns a number": ("    return deltas.sum()", "'own' returned [] for a block [2, 4]"),
    "returns nothing": ("    return None", "'own' returned NoneType"),
}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("case", _WORK)
def test_a_method_that_fails_at_work_is_named_with_its_tensor(
    case: str, threads: int, tmp_path: Path
) -> None:
    body, words = _WORK[case]
    registry.load_plugin(_plugin(tmp_path, _HEAD.format(more="") + '    """Nothing."""\n' + body))
    ones = {"x": torch.ones(4)}
    with pytest.raises(MethodError) as caught:
        package.merge_tensors("own", ones, [ones, ones], threads=threads)
    assert words in str(caught.value)


def test_a_failing_method_leaves_no_output(cermet: Cermet, tmp_path: Path) -> None:
    plugin = _plugin(tmp_path, _EXAMPLE.replace("return sum(", "return max("))
    done = cermet("merge", ready(tmp_path, _RECIPE), tmp_path / "out", "--plugin", plugin)
    assert done.code == 2
    assert "'clipped' failed on tensor" in done.said
    assert not list(tmp_path.glob("*out*")) + list(tmp_path.glob(".*"))


class _Entry:
    """Stands for an entry point of an installed package."""

    name, value = "own", "package:own"

    def __init__(self, load: Callable[[], object]) -> None:
        self.load = load


def _install(patch: pytest.MonkeyPatch, load: Callable[[], object]) -> None:
    """Pretend that a package with one entry point is installed."""

    def entry_points(*, group: str) -> list[_Entry]:
        return [_Entry(load)] if group == "cermet.methods" else []

    patch.setattr(importlib.metadata, "entry_points", entry_points)
    registry._walk.cache_clear()


def _load(text: str) -> Callable[[], object]:
    def load() -> object:
        module = types.ModuleType("package")
        sys.modules["package"] = module
        try:
            exec(text, module.__dict__)
        finally:
            del sys.modules["package"]
        return module

    return load


def test_an_entry_point_adds_a_method(cermet: Cermet, monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(registry.all_methods())
    _install(monkeypatch, _load(_EXAMPLE))
    assert cermet("methods", "clipped").code == 0
    assert set(registry.all_methods()) == before | {"clipped"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "raise OSError('no luck')",
            "The plugin 'own' (package:own) could not be imported: no luck.",
        ),
        ("x = 1", "The plugin 'own' (package:own) registers no method"),
    ],
)
def test_a_broken_entry_point_is_named(
    text: str, words: str, cermet: Cermet, monkeypatch: pytest.MonkeyPatch
) -> None:
    _install(monkeypatch, _load(text))
    done = cermet("methods")
    assert (done.code, done.out) == (2, "")
    assert words in done.said


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.py", tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(InputError, match="is not a Python file") as caught:
            registry.load_plugin(path)
        assert isinstance(caught.value, CermetError)


_TRANSFORM = '''\
"""One transform of our own: deltas, each cut off at a largest size."""

import cermet


@cermet.method(kind="transform", on="deltas", source="this file", workspace=1.0)
def capped(deltas, *, most: float = 0.1):
    """Cut off what moves by more than `most`."""
    return deltas.clamp(-most, most)
'''

_PIPELINE = """\
pipeline: [capped: {most: 0.05}, ties: {weight: 1.0}, capped: {most: 0.02}]
base_model: $a
models: [{model: $b}, {model: $c}]
"""


def test_a_transform_from_a_file_stands_in_a_pipeline(cermet: Cermet, tmp_path: Path) -> None:
    recipe, plugin = ready(tmp_path, _PIPELINE), _plugin(tmp_path, _TRANSFORM)
    assert "'capped'" in cermet("plan", recipe).said
    done = cermet("plan", recipe, "--plugin", plugin, "--json")
    assert (done.code, json.loads(done.out)["method"]) == (0, "capped > ties > capped_2")
    assert cermet("merge", recipe, tmp_path / "out", "--plugin", plugin).code == 0
    found, base = package.open(tmp_path / "out"), package.open(tmp_path / "a")
    assert all(float((found[n] - base[n]).abs().max()) < 0.0201 for n in base)
    listed = cermet("methods", "capped", "--plugin", plugin)
    assert "In a pipeline" in listed.out
