"""`cermet merge --continue`: one more expert for a finished merge, or one sentence why not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import cermet as package
from tests.cli.commands import Cermet
from tests.recipes.pools import llama, llama_config, save


def _pool(root: Path, dtype: torch.dtype) -> None:
    """A base and three experts near it."""
    base = llama()
    for name, seed in {"base": 0, "a": 1, "b": 2, "c": 3}.items():
        other, share = llama(seed), 0.0 if name == "base" else 0.1
        model = {k: torch.lerp(v, other[k], share).to(dtype) for k, v in base.items()}
        save(root / name, model, llama_config())


def _merged(root: Path, out: str, *experts: str, **more: Any) -> Path:
    recipe = {
        "merge_method": "opcm",
        "base_model": str(root / "base"),
        "models": [{"model": str(root / name)} for name in experts],
        "parameters": {"alpha": 0.4},
    }
    package.merge({**recipe, **more}, root / out)
    return root / out


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pool")
    _pool(root, torch.float32)
    _merged(root, "two", "a", "b")
    return root


@pytest.fixture
def pool(kept: Path, tmp_path: Path) -> Path:
    """A pool of float32 with a merge of two experts, to be changed."""
    record = json.loads((kept / "two" / "cermet.json").read_text())
    root = tmp_path / "pool"
    shutil.copytree(kept, root)
    record["recipe"]["base_model"] = str(root / "base")
    record["models"][-1]["name"] = str(root / "base")
    record.pop("recipe_sha256")  # it is the same recipe elsewhere
    (root / "two" / "cermet.json").write_text(json.dumps(record))
    return root


def _apart(one: Path, other: Path) -> float:
    """The norm of a difference over that of the model, in units of the last place."""
    ours, theirs = package.open(one), package.open(other)
    epsilon = torch.finfo(next(iter(ours.values())).dtype).eps
    both = [(ours[name].double(), theirs[name].double()) for name in ours]
    apart = sum(float((x - y).square().sum()) for x, y in both)
    return (apart / sum(float(x.square().sum()) for x, _ in both)) ** 0.5 / epsilon


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_experts_one_by_one_are_all_of_them_at_once(dtype: torch.dtype, tmp_path: Path) -> None:
    """Within the rounding of the merges on the way: less than half a unit in the last place each.

    The order changes the result by more, even in bfloat16.
    """
    _pool(tmp_path, dtype)
    whole = _merged(tmp_path, "whole", "a", "b", "c")
    step = _merged(tmp_path, "one", "a")
    for name, out in (("b", "two"), ("c", "three")):
        package.continue_merge(step, tmp_path / name, tmp_path / out)
        step = tmp_path / out
    assert _apart(whole, step) < 1.0
    assert _apart(whole, _merged(tmp_path, "turned", "b", "a", "c")) > 1.5
    there, here = (json.loads((p / "cermet.json").read_text())["continue"] for p in (whole, step))
    assert there["merged"] == here["merged"] == 3
    assert here["length"] == pytest.approx(there["length"], rel=1e-6)
    assert here["shrunk"] == pytest.approx(there["shrunk"], rel=1e-3)


def test_the_command_and_the_recipe_that_it_writes(cermet: Cermet, pool: Path) -> None:
    out = pool / "three"
    done = cermet("merge", "--continue", pool / "two", pool / "c", "-o", out, "--threads", "1")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"{out}: {len(llama())} tensors")
    recipe = json.loads((out / "cermet.json").read_text())["recipe"]
    assert [m["model"] for m in recipe["models"]] == [str(pool / "two"), str(pool / "c")]
    assert recipe["parameters"]["alpha"] == 0.4
    assert recipe["parameters"]["merged"] == 2
    assert cermet("verify", out).code == 0
    again = cermet("merge", "--continue", pool / "two", pool / "c", pool / "again")
    assert again.code == 0
    same = [(p / "model.safetensors").read_bytes() for p in (out, pool / "again")]
    assert same[0] == same[1]


def test_a_base_that_has_moved_is_named(cermet: Cermet, pool: Path) -> None:
    given = ("merge", "--continue", pool / "two", pool / "c", "-o", pool / "out")
    (pool / "base").rename(pool / "elsewhere")
    lost = cermet(*given)
    assert lost.code == 2
    assert lost.said.endswith("Say where it is with --base.")
    assert cermet(*given, "--base", pool / "elsewhere").code == 0


def test_another_base_and_a_changed_merge_are_refused(cermet: Cermet, pool: Path) -> None:
    given = ("merge", "--continue", pool / "two", pool / "c", "-o", pool / "out")
    other = cermet(*given, "--base", pool / "a")
    assert other.code == 3
    assert f"'{pool / 'a'}' is not the base that '{pool / 'two'}' was merged with" in other.said
    file = pool / "two" / "model.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-3] ^= 1
    file.write_bytes(raw)
    changed = cermet(*given)
    assert changed.code == 3
    assert "cannot be continued: tensor 'model.norm.weight'" in changed.said
    assert not (pool / "out").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"merge_method": "ties"}, "was merged with 'ties', to which no expert can be added"),
        ({"merge_method": None, "pipeline": ["opcm"]}, "is no merge of whole models by one method"),
        ({"tokenizer_source": "union"}, "has another vocabulary than its base"),
        ({"base_model": "nowhere"}, "names no base; it is damaged"),
        ({"merge_method": "opmc"}, "Did you mean 'opcm'?"),
    ],
)
def test_other_merges_are_refused(
    change: dict[str, Any], words: str, cermet: Cermet, pool: Path
) -> None:
    file = pool / "two" / "cermet.json"
    record = json.loads(file.read_text())
    recipe = {**record["recipe"], **change}
    record["recipe"] = {key: value for key, value in recipe.items() if value is not None}
    file.write_text(json.dumps(record))
    done = cermet("merge", "--continue", pool / "two", pool / "c", "-o", pool / "out")
    assert done.code in (2, 3)
    assert words in done.said


def test_what_is_no_finished_merge_is_refused(cermet: Cermet, pool: Path) -> None:
    given = ("merge", "--continue", pool / "two", pool / "c")
    none = cermet("merge", "--continue", pool / "a", pool / "c", "-o", pool / "out")
    assert (
        none.said == f"cermet: '{pool / 'a'}' holds no cermet.json; it was not written by Cermet."
    )
    file = pool / "two" / "cermet.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps({k: v for k, v in record.items() if k != "continue"}))
    assert "before Cermet kept what one more expert needs" in cermet(*given, pool / "out").said
    assert "Name one folder for the output" in cermet(*given).said
    assert "Name one folder" in cermet(*given, pool / "x", "-o", pool / "y").said
    other = cermet("merge", pool / "recipe.yaml", pool / "out", "--base", pool / "base")
    assert other.said == "cermet: --base goes with --continue; a recipe names its own base."
