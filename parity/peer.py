"""Where the peer lives: mergekit 0.1.5, in a virtual environment of its own.

The benchmark uses it too. Set CERMET_PEER_PYTHON to the interpreter of an environment
that already has the peer; without it, `.venv-mergekit/` in the repository is used, and
made on first need.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

__all__ = ["PEER_VERSION", "ROOT", "peer_command", "peer_environment", "peer_python"]

ROOT = Path(__file__).resolve().parent.parent
"""The repository."""

PEER_VERSION = "0.1.5"
_ENVIRONMENT = ROOT / ".venv-mergekit"
_CONSTRAINTS = Path(__file__).resolve().parent / "constraints.txt"
_PACKAGES = ("torch==2.13.0", f"mergekit=={PEER_VERSION}")
_ASK = "import importlib.metadata as m; print(m.version('mergekit'))"


def peer_python() -> Path:
    """The interpreter of the peer's environment, which is made where it is missing.

    Raises SystemExit with one sentence where it cannot be made or holds another version.
    """
    named = os.environ.get("CERMET_PEER_PYTHON")
    python = Path(named) if named else _ENVIRONMENT / "bin" / "python"
    if _version(python) == PEER_VERSION:
        return python
    if named:
        raise SystemExit(
            f"CERMET_PEER_PYTHON names '{named}', which has no mergekit {PEER_VERSION}; "
            "unset it to have an environment made."
        )
    _make(python)
    if _version(python) != PEER_VERSION:
        raise SystemExit(
            f"'{_ENVIRONMENT}' was made but has no mergekit {PEER_VERSION}; "
            "remove the folder and run again."
        )
    return python


def peer_command() -> Path:
    """The peer's `mergekit-yaml`, beside its interpreter."""
    return peer_python().parent / "mergekit-yaml"


def peer_environment(threads: int | None = None) -> dict[str, str]:
    """Environment variables for the peer: offline, and with a stated number of threads.

    `threads` None leaves the number to the peer, as its users do.
    """
    variables = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    variables |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "0"}
    if threads is not None:
        variables |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    return variables


def _version(python: Path) -> str | None:
    """The mergekit version that an interpreter sees; None where there is none."""
    if not python.is_file():
        return None
    done = subprocess.run([str(python), "-c", _ASK], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def _make(python: Path) -> None:
    print(f"Making the peer's environment in {_ENVIRONMENT} (once; some minutes).", flush=True)
    steps = (
        [sys.executable, "-m", "venv", "--clear", str(_ENVIRONMENT)],
        [str(python), "-m", "pip", "install", "-q", "-c", str(_CONSTRAINTS), *_PACKAGES],
    )
    for step in steps:
        if subprocess.run(step, check=False).returncode:
            raise SystemExit(
                f"The peer's environment could not be made: '{' '.join(step)}' failed."
            )
