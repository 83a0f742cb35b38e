"""Pools, and runs of the real command that are watched through their journal."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from cermet import api
from tests.reliability.forked import Forked

Files = dict[str, str]
_PATIENCE = 60.0  # seconds after which a test gives up waiting for a process


def weights(layers: int, shape: tuple[int, int], seed: int) -> dict[str, Tensor]:
    """A base (seed 0) or an expert near it: matrices, norms, and a buffer of integers."""
    start, own = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    found = {"model.position_ids": torch.arange(7)}
    for layer in range(layers):
        for name, size in (("mlp.up_proj", shape), ("input_layernorm", shape[1:])):
            value = torch.randn(size, generator=start) * 0.05
            if seed:
                value = value + torch.randn(size, generator=own) * 0.01
            found[f"model.layers.{layer}.{name}.weight"] = value.bfloat16()
    return found


def write_model(folder: Path, tensors: Mapping[str, Tensor], layers: int = 2) -> Path:
    """A checkpoint with a config and a tokenizer file."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), folder / "model.safetensors")
    config = {"model_type": "llama", "num_hidden_layers": layers}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    words = {"model": {"type": "WordLevel", "vocab": {"x": 0}}}
    (folder / "tokenizer.json").write_text(json.dumps(words), "utf-8")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n", "utf-8")
    return folder


def write_pool(root: Path, layers: int, shape: tuple[int, int], models: int = 3) -> list[Path]:
    """A base and its experts."""
    return [write_model(root / f"m{i}", weights(layers, shape, i), layers) for i in range(models)]


def recipe(pool: list[Path], method: str = "ties", **changes: Any) -> dict[str, Any]:
    """A recipe over a whole pool; the first model is the base."""
    experts = [{"model": str(p), "parameters": {"weight": 0.5}} for p in pool[1:]]
    found = {"merge_method": method, "base_model": str(pool[0]), "models": experts, "seed": 3}
    return {**found, "parameters": {"density": 0.5}, **changes}


def write_recipe(path: Path, data: Mapping[str, Any]) -> Path:
    """JSON is YAML too."""
    path.write_text(json.dumps(data), "utf-8")
    return path


def contents(folder: Path) -> Files:
    """Digests of all files of an output; of the record only what two runs have in common."""
    found = {}
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        if path.name == "cermet.json":
            record = json.loads(data)
            del record["run"]
            data = json.dumps(record).encode()
        found[path.name] = hashlib.sha256(data).hexdigest()
    return found


def snapshot(folders: Iterable[Path]) -> dict[Path, tuple[int, int, str]]:
    """Size, time of change and digest of every file of some folders."""
    return {
        path: (
            path.stat().st_size,
            path.stat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class Interrupt:
    """A `progress` that stops a merge, as Ctrl-C does, after some pieces."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, tensor: str, nbytes: int) -> None:
        self.left -= 1
        if self.left <= 0:
            raise KeyboardInterrupt


def interrupted(data: Mapping[str, Any], out: Path, after: int, **options: Any) -> Path:
    """Leave an unfinished merge behind; its working folder."""
    try:
        api.merge(data, out, progress=Interrupt(after), **{"threads": 1, **options})
    except KeyboardInterrupt:
        assert not out.exists()
        return working(out)
    raise AssertionError(f"the merge had fewer than {after} pieces")


def working(out: Path) -> Path:
    """The folder in which an output is prepared."""
    return out.parent / f".{out.name}.cermet"


def recorded(out: Path) -> int:
    """How many pieces the journal of an output that is being prepared tells of."""
    try:
        return max(0, (working(out) / "journal.jsonl").read_bytes().count(b"\n") - 1)
    except FileNotFoundError:
        return 0


def _signals() -> None:
    # A shell that starts the tests in the background makes them, and us, deaf to Ctrl-C.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(*arguments: str | Path, prefix: Iterable[str] = ()) -> subprocess.Popen[str]:
    """Run the `cermet` command."""
    return subprocess.Popen(
        [*prefix, sys.executable, "-m", "cermet", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_signals,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )


def run(*arguments: str | Path, prefix: Iterable[str] = ()) -> tuple[int, str]:
    """Run the `cermet` command to its end: exit code, and all that it printed."""
    process = start(*arguments, prefix=prefix)
    return ended(process)


def forked(*arguments: str | Path) -> tuple[int, str]:
    """The same by a process that need not import anything (see `Forked`)."""
    return ended(Forked(*arguments))


def ended(process: subprocess.Popen[str] | Forked) -> tuple[int, str]:
    """Wait for a process: exit code, and all that it printed."""
    out, err = process.communicate(timeout=_PATIENCE)
    assert process.returncode is not None
    return process.returncode, out + err


def wait_until_recorded(process: subprocess.Popen[str] | Forked, out: Path, pieces: int) -> None:
    """Wait until so many pieces are in the journal, or the process has ended."""
    deadline = time.monotonic() + _PATIENCE
    while process.poll() is None and recorded(out) < pieces:
        assert time.monotonic() < deadline, "the merge does not get on"
        time.sleep(0.001)
