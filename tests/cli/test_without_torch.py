"""Commands that do not import torch, and give what they give with it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import cermet
from cermet.maths.native.compiled import kernels

pytestmark = pytest.mark.skipif(kernels() is None, reason="no C compiler here, or no AVX2")

_RUN = """
import sys
from cermet.cli.app import main
from cermet.core.later import loaded
try:
    main()
except SystemExit as end:
    code = end.code
print("with torch" if loaded("torch") else "without torch")
sys.exit(code)
"""
METHODS: dict[str, dict[str, Any]] = {
    "linear": {},
    "task_arithmetic": {},
    "slerp": {"t": 0.3},
    "nuslerp": {},
    "model_stock": {},
    "ties": {"density": 0.5, "rescale": True},
    "breadcrumbs": {"density": 0.5, "gamma": 0.1},
    "dare_ties": {"density": 0.5},
    "dare_linear": {"density": 0.5},
    "della": {"density": 0.5, "epsilon": 0.1},
    "sce": {"select_topk": 0.5},
}
_WEIGHTLESS = ("slerp", "model_stock", "sce", "karcher")


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """A base and three experts in bfloat16, each with a buffer of whole numbers."""
    own = torch.Generator().manual_seed(0)
    for name in ("base", "a", "b", "c"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
        tensors = {
            f"model.layers.{layer}.self_attn.q_proj.weight": torch.randn(70, 33, generator=own)
            for layer in (0, 1)
        }
        save_file(
            {k: v.bfloat16() for k, v in tensors.items()} | {"steps": torch.arange(9)},
            folder / "model.safetensors",
            metadata={"format": "pt"},
        )
    return tmp_path


def _recipe(pool: Path, method: str, **parameters: Any) -> Path:
    experts = {"slerp": "a", "nuslerp": "ab"}.get(method, "abc")
    based = method not in ("linear", "nuslerp", "karcher")
    own = {} if method in _WEIGHTLESS else {"parameters": {"weight": 0.7}}
    recipe = {
        "merge_method": method,
        "models": [{"model": str(pool / e), **own} for e in experts],
        **({"base_model": str(pool / "base")} if based else {}),
        "parameters": parameters,
        "dtype": "bfloat16",
    }
    path = pool / "recipe.yaml"
    path.write_text(json.dumps(recipe))
    return path


def _command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _RUN, *map(str, arguments)], capture_output=True, text=True
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_merge_by_the_kernels(method: str, pool: Path) -> None:
    """The bytes and the record of one beside torch."""
    recipe = _recipe(pool, method, **METHODS[method])
    run = _command("merge", recipe, pool / "alone", "--threads", 1)
    assert run.returncode == 0, run.stderr
    assert run.stdout.endswith("without torch\n")
    cermet.merge(recipe, pool / "beside", threads=1)
    one, other = pool / "alone", pool / "beside"
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    records = [json.loads((folder / "cermet.json").read_text()) for folder in (one, other)]
    for key in ("tensors", "models", "machine", "versions"):
        assert records[0][key] == records[1][key]


@pytest.mark.parametrize("threads", [1, 2])
def test_numbers_so_large_that_torch_looks_at_them(pool: Path, threads: int) -> None:
    """They are merged all the same, and NaN is refused by name."""
    recipe = _recipe(pool, "task_arithmetic")
    for value, told in ((1e31, "with torch\n"), (float("nan"), "holds nan at element 7")):
        path = pool / "a" / "model.safetensors"
        tensors = load_file(path)
        tensors["model.layers.1.self_attn.q_proj.weight"].view(-1)[7] = value
        save_file(tensors, path, metadata={"format": "pt"})
        run = _command("merge", recipe, pool / "out", "--threads", threads, "--overwrite")
        assert told in run.stdout + run.stderr
        assert run.returncode == (3 if "nan" in told else 0)
        assert "Traceback" not in run.stderr


def test_what_needs_torch_has_it(pool: Path) -> None:
    """Another dtype, and a method whose passes the kernels do not know; karcher's they do."""
    other = json.loads(_recipe(pool, "linear").read_text()) | {"dtype": "float32"}
    (pool / "recipe.yaml").write_text(json.dumps(other))
    run = _command("merge", pool / "recipe.yaml", pool / "wide")
    assert run.stdout.endswith("with torch\n"), run.stderr
    run = _command("merge", _recipe(pool, "karcher"), pool / "round")
    assert run.stdout.endswith("without torch\n"), run.stderr
    several = json.loads(_recipe(pool, "ram").read_text())
    several["models"] = [{"model": m["model"]} for m in several["models"]]
    (pool / "recipe.yaml").write_text(json.dumps(several))
    run = _command("merge", pool / "recipe.yaml", pool / "ram")
    assert run.stdout.endswith("with torch\n"), run.stderr


def test_a_plan(pool: Path) -> None:
    run = _command("plan", _recipe(pool, "ties", density=0.5))
    assert run.returncode == 0, run.stderr
    assert run.stdout.endswith("without torch\n")


def test_a_file_that_shrinks_is_an_error(pool: Path) -> None:
    """Where torch reads through a mapping, that would end the process."""
    recipe = _recipe(pool, "linear")
    script = _RUN.replace(
        "from cermet.cli.app import main",
        "import os\nfrom cermet.cli.app import main\nfrom cermet.engine import run\n"
        "begun = run._begun\n"
        "def shrunk(*a):\n"
        f"    os.truncate({str(pool / 'b' / 'model.safetensors')!r}, 3000)\n"
        "    return begun(*a)\n"
        "run._begun = shrunk",
    )
    command = [sys.executable, "-c", script, "merge", recipe, pool / "out", "--threads", "1"]
    run = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert run.returncode == 3, run.stderr
    assert "b/model.safetensors' has become shorter while it was read." in run.stderr
    assert not (pool / "out").exists()
