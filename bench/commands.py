"""The commands that are measured: Cermet, the peer, and the floor, on one recipe."""

from __future__ import annotations

import compileall
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.cgroup import Cage
from bench.measure import Run, run_command
from bench.pool import SHAPES, build_pool
from bench.recipes import recipe
from parity.peer import ROOT, peer_command, peer_environment

__all__ = ["Bench"]


@dataclass
class Bench:
    """A folder for pools and outputs, and the ways to run a merge in it.

    Every run starts with the output removed and the disk's queue empty, so no run pays for
    what another has written.
    """

    folder: Path
    synced: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        # As pip does it for the peer, and for everyone who installs Cermet other than editably.
        compileall.compile_dir(ROOT / "cermet", quiet=1)
        run_command([sys.executable, "-c", "import torch"], _environment())
        self.startup("linear")  # and what else a merge imports

    def cermet(
        self,
        content: Mapping[str, Any],
        *,
        threads: int | None = None,
        memory: str | None = None,
        cage: Cage | None = None,
    ) -> Run:
        """`cermet merge` as a whole command; `synced` takes its seconds of waiting for the disk."""
        out = self._fresh("cermet-out")
        command = [sys.executable, "-m", "cermet", "merge", self._write(content), str(out)]
        command.append("--overwrite")
        if threads is not None:
            command += ["--threads", str(threads)]
        if memory is not None:
            command += ["--memory", memory]
        run = run_command(command, _environment(), cage)
        self.synced.append(_sync_seconds(out))
        shutil.rmtree(out, ignore_errors=True)
        return run

    def mergekit(self, content: Mapping[str, Any]) -> Run:
        """`mergekit-yaml` as a whole command, with its own number of threads."""
        out = self._fresh("mergekit-out")
        command = [str(peer_command()), self._write(content), str(out), "--no-copy-tokenizer"]
        run = run_command([*command, "--quiet"], peer_environment())
        shutil.rmtree(out, ignore_errors=True)
        return run

    def floor(self, models: Sequence[Path], threads: int = 2) -> Run:
        """Read the models, write one."""
        out = self._fresh("floor-out")
        command = [sys.executable, "-m", "bench.floor", str(out), *map(str, models)]
        run = run_command(command, {**os.environ, "BENCH_THREADS": str(threads)})
        out.unlink(missing_ok=True)
        return run

    def startup(self, method: str) -> Run:
        """A merge of a pool so small that it takes no time: what starting up costs."""
        pool = build_pool(self.folder, SHAPES["tiny"], 3)
        run = self.cermet(recipe(method, pool))
        self.synced.pop()
        return run

    def _fresh(self, name: str) -> Path:
        out = self.folder / name
        if out.is_dir():
            shutil.rmtree(out)
        out.unlink(missing_ok=True)
        os.sync()
        return out

    def _write(self, content: Mapping[str, Any]) -> str:
        file = self.folder / "recipe.yaml"
        file.write_text(json.dumps(content, indent=1))  # JSON is YAML
        return str(file)


def _environment() -> dict[str, str]:
    """Python keeps what it has compiled, as it does if nothing is said; the peer's libraries were
    compiled by pip, ours by their first import.
    """
    return {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


def _sync_seconds(out: Path) -> float:
    """What the record beside an output says about waiting for the disk; 0 where there is none."""
    file = out / "cermet.json"
    return float(json.loads(file.read_text())["run"]["sync_seconds"]) if file.is_file() else 0.0
