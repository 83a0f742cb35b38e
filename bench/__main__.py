"""`python -m bench`: Cermet against mergekit 0.1.5 and the floor.

`spectral`, `adapters` and `primitives` measure methods and linear algebra on matrices alone.
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from bench.adapters import main as adapters
from bench.memory import Memory, measure_memory
from bench.pool import SHAPES
from bench.pools import PICTURES, keep
from bench.primitives import main as primitives
from bench.readme import PAGES, rewrite
from bench.recipes import METHODS, SHELF
from bench.records import RECORDS
from bench.scaling import Scaling, default_threads, measure_scaling
from bench.shadow import measure_shadow
from bench.shelf import measure_shelf
from bench.spectral import main as spectral
from bench.speed import Speed, measure_speed
from bench.table import tables
from parity.peer import ROOT

__all__ = ["main"]

_CHEAP_AND_DEAR = ("linear", "ties")
_ALONE = {"adapters": adapters, "primitives": primitives, "spectral": spectral}
"""What has options of its own."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "what",
        nargs="?",
        default="all",
        choices=(
            "all",
            "speed",
            "shelf",
            "memory",
            "scaling",
            "table",
            "readme",
            "keep",
            "shadow",
        ),
        help="what to measure (all: speed, shelf, memory, scaling) or to print; default all; keep: "
        "take over the records of `cermet bench`, from its --out given as --dir; shadow: Shadow-FT "
        "on the pool in --dir",
    )
    add = parser.add_argument
    add("--dir", type=Path, default=Path("~/.cache/cermet/bench"), help="pools and outputs")
    add("--records", type=Path, default=RECORDS, help="folder of the records")
    add("--methods", help="separated by commas; all by default, linear and ties for scaling")
    add("--repeats", type=int, default=3, help="of each measurement (default 3)")
    add("--peer-repeats", type=int, help="of mergekit; as --repeats by default, 0 for none")
    add("--shape", default="1.1B", choices=sorted(SHAPES), help="of speed and memory")
    add("--shelf-shape", default="160M", choices=sorted(SHAPES), help="of the shelf")
    add("--wide-shape", default="20M", choices=sorted(SHAPES), help="of the 40-model merge")
    add("--shapes", default="160M,400M,1.1B", help="of scaling, by parameters")
    add("--experts", default="2,4,8,16", help="numbers of experts, for scaling")
    add("--experts-shape", default="160M", choices=sorted(SHAPES))
    add("--threads", help="speed: their number; scaling: numbers, separated by commas")
    add("--date", default=datetime.now(UTC).date().isoformat(), help="for the records")
    add("--readme", type=Path, default=ROOT / "README.md", help="the file that readme rewrites")
    add("--check", action="store_true", help="readme: exit 1 where it differs; write nothing")
    return parser


def _methods(
    given: argparse.Namespace, default: tuple[str, ...], known: tuple[str, ...] = METHODS
) -> tuple[str, ...]:
    chosen = tuple(given.methods.split(",")) if given.methods else default
    wrong = [name for name in chosen if name not in known]
    if wrong:
        raise SystemExit(f"No recipe for '{wrong[0]}'; there are {', '.join(known)}.")
    return chosen


def _threads(given: argparse.Namespace) -> int | None:
    return int(given.threads) if given.threads and "," not in given.threads else None


def _speed(given: argparse.Namespace, folder: Path) -> int:
    peers = given.repeats if given.peer_repeats is None else given.peer_repeats
    methods, threads = _methods(given, METHODS), _threads(given)
    speed = Speed(methods, given.shape, given.repeats, peers, threads, given.date)
    return measure_speed(speed, folder, given.records)


def _shelf(given: argparse.Namespace, folder: Path) -> int:
    methods, threads = _methods(given, SHELF, SHELF), _threads(given)
    speed = Speed(methods, given.shelf_shape, given.repeats, 0, threads, given.date)
    return measure_shelf(speed, folder, given.records)


def _memory(given: argparse.Namespace, folder: Path) -> int:
    memory = Memory(_methods(given, METHODS), given.shape, given.wide_shape, given.date)
    return measure_memory(memory, folder, given.records)


def _scaling(given: argparse.Namespace, folder: Path) -> int:
    threads = default_threads()
    if given.threads:
        threads = tuple(int(part) for part in given.threads.split(","))
    scaling = Scaling(
        methods=_methods(given, _CHEAP_AND_DEAR),
        shapes=[shape for shape in given.shapes.split(",") if shape],
        experts=tuple(int(part) for part in given.experts.split(",") if part),
        experts_shape=given.experts_shape,
        threads=threads,
        threads_shape=given.shape,
        repeats=given.repeats,
        date=given.date,
    )
    return measure_scaling(scaling, folder, given.records)


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and run; 1 where something failed or differs."""
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] and words[0] in _ALONE:
        return _ALONE[words[0]](words[1:])
    given = _parser().parse_args(words)
    if given.what == "table":
        print(tables(given.records), end="")
        return 0
    if given.what == "readme":
        wrong = rewrite(given.readme, given.records, check=given.check)
        for page, parts in PAGES.items():
            file = given.readme.parent / page
            if file.is_file():
                wrong |= rewrite(file, given.records, check=given.check, parts=parts)
        return wrong
    if given.what == "keep":
        print(
            f"'{keep(given.dir, given.records, PICTURES)}' written; next: `python -m bench readme`."
        )
        return 0
    if given.what == "shadow":
        written = measure_shadow(given.dir, given.records, given.date)
        print(f"'{written}' written; next: `python -m bench readme`.")
        return 0
    folder = given.dir.expanduser().resolve()
    folder.mkdir(parents=True, exist_ok=True)
    steps = {"speed": _speed, "shelf": _shelf, "memory": _memory, "scaling": _scaling}
    chosen = steps.values() if given.what == "all" else (steps[given.what],)
    failures = sum(step(given, folder) for step in chosen)
    print("\n" + tables(given.records), end="")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
