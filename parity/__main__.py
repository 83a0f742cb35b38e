"""`python -m parity`: random recipes through mergekit 0.1.5 and Cermet, compared."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parity.suite import Options, run_suite
from parity.vocabularies import run_vocabularies

__all__ = ["main"]


def _merge(recipe: Mapping[str, Any], out: Path) -> object:
    from cermet import api

    return api.merge(recipe, out, overwrite=True)


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and run; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m parity", description=__doc__)
    parser.add_argument("--cases", type=int, default=240, help="number of recipes (default 240)")
    parser.add_argument("--seed", type=int, default=0, help="of recipes and weights (default 0)")
    parser.add_argument(
        "--only", default="", help="numbers of cases or names of methods, separated by commas"
    )
    parser.add_argument(
        "--vocabularies", type=int, default=40, help="recipes that change it (default 40)"
    )
    parser.add_argument("--dir", type=Path, help="keep checkpoints and outputs in this folder")
    given = parser.parse_args(arguments)
    only = tuple(part for part in given.only.split(",") if part)
    failed = run_suite(Options(given.cases, given.seed, only, given.dir), _merge)
    if given.vocabularies and not only:
        with tempfile.TemporaryDirectory(prefix="cermet-parity-") as temporary:
            folder = (given.dir or Path(temporary)) / "vocabularies"
            failed |= run_vocabularies(given.vocabularies, given.seed, folder, _merge) > 0
    return failed


if __name__ == "__main__":
    sys.exit(main())
