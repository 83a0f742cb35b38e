"""Methods that merge adapters as adapters, one module at a time, beside PEFT's way in torch alone.

`python -m bench adapters [METHODS]` prints for each matrix and method the median seconds of
eight adapters of rank 16 and, of those that truncate the sum, of PEFT's way (the sum of the whole
deltas, and its whole singular value decomposition), with both relative errors against float64.
With `--records` they stand beside those of `python -m bench spectral`, on the methods' pages.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.records import RECORDS, append, context
from cermet import merge_adapters
from cermet.core.registry import all_factor_methods

__all__ = ["main"]

_MODULE = "base_model.model.layers.0.mlp.up_proj"
_TRUNCATED = ("lora_reduced", "lora_svd")
_GIVEN = {"weight": 1.0, "density": 0.5}
_ENOUGH = 60.0  # seconds after which nothing is repeated

Pair = tuple[Tensor, Tensor]
"""B [rows, rank] and A [rank, columns] of an adapter whose scale is 1."""


def _factors(shape: str, rank: int, count: int) -> list[Pair]:
    rows, columns = map(int, shape.split("x"))
    own = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(rows, rank, generator=own).mul_(0.01),
            torch.randn(rank, columns, generator=own).div_(rank**0.5),
        )
        for _ in range(count)
    ]


def _ours(method: str, pairs: Sequence[Pair]) -> Pair:
    """B and A of the merged adapter, with its scale in A."""
    rank = len(pairs[0][1])
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": ["up_proj"]}
    adapters = [
        ({f"{_MODULE}.lora_B.weight": b, f"{_MODULE}.lora_A.weight": a}, config) for b, a in pairs
    ]
    known = all_factor_methods()[method].parameters
    given: dict[str, Any] = {name: value for name, value in _GIVEN.items() if name in known}
    made, told = merge_adapters(method, adapters, **given)
    scale = told["lora_alpha"] / told["r"]
    return made[f"{_MODULE}.lora_B.weight"], made[f"{_MODULE}.lora_A.weight"] * scale


def _peft(pairs: Sequence[Pair], *, whole: bool = True) -> Pair:
    """The sum of the deltas and its decomposition, as PEFT's svd finds it: the whole of it."""
    rank = len(pairs[0][1])
    total = torch.stack([b @ a for b, a in pairs]).sum(dim=0)
    left, values, right = torch.linalg.svd(total, full_matrices=whole)
    return left[:, :rank] * values[:rank], right[:rank]


def _timed(work: Callable[[], Pair], repeats: int) -> tuple[float, Tensor]:
    """Median seconds of some runs, fewer where they take long, and the delta that was found."""
    seconds = list[float]()
    while len(seconds) < repeats and sum(seconds) < _ENOUGH:
        began = time.perf_counter()
        b, a = work()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds), b @ a


def _record(method: str, shape: str, pairs: Sequence[Pair], repeats: int) -> Mapping[str, Any]:
    """Seconds of both and their errors; None for what is no truncated sum."""
    ours, made = _timed(lambda: _ours(method, pairs), repeats)
    theirs, errors = None, None
    if method in _TRUNCATED:
        theirs, peer = _timed(lambda: _peft(pairs), repeats)
        b, a = _peft([(b.double(), a.double()) for b, a in pairs], whole=False)
        exact = b @ a
        errors = [float((x.double() - exact).norm() / exact.norm()) for x in (peer, made)]
    return {
        "kind": "spectral",
        "method": method,
        "shape": shape,
        "spectrum": f"lora-{len(pairs[0][1])}",
        "device": "cpu",
        "experts": len(pairs),
        "repeats": repeats,
        "authors": theirs,
        "ours": ours,
        "errors": errors,
    }


def _line(found: Mapping[str, Any]) -> str:
    slow, fast, errors = found["authors"], found["ours"], found["errors"]
    shown = f"{'-':>9} {fast:9.4f} {'-':>7}"
    if slow is not None:
        shown = f"{slow:9.3f} {fast:9.4f} {slow / fast:7.1f}   {errors[0]:8.1e} {errors[1]:8.1e}"
    return f"{found['shape']:<10} {found['method']:<26} {shown}"


def _parsed(arguments: Sequence[str] | None, known: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench adapters", description=__doc__)
    add = parser.add_argument
    add("methods", nargs="*", help=f"of {', '.join(known)}; all by default")
    add("--shapes", default="2048x2048,5632x2048", help="outputs and inputs")
    add("--experts", type=int, default=8)
    add("--rank", type=int, default=16, help="of every adapter")
    add("--repeats", type=int, default=3, help="of each measurement (default 3)")
    add("--records", action="store_true", help="add to the records")
    add("--folder", type=Path, default=RECORDS, help="of the records")
    add("--date", default=datetime.now(UTC).date().isoformat(), help="for the records")
    given = parser.parse_args(arguments)
    wrong = [name for name in given.methods if name not in known]
    if wrong:
        parser.error(f"'{wrong[0]}' is none of {', '.join(known)}")
    return given


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; PEFT's way takes minutes at the default shapes."""
    known = list(all_factor_methods())
    given = _parsed(arguments, known)
    torch.set_num_threads(1)
    _ours(known[0], _factors("8x8", 2, 2))  # what is imported once is not timed
    print("matrix     method                        PEFT s    ours s   ratio   errors of both")
    for shape in given.shapes.split(","):
        pairs = _factors(shape, given.rank, given.experts)
        for method in given.methods or known:
            found = _record(method, shape, pairs, given.repeats)
            print(_line(found), flush=True)
            if given.records:
                append(given.folder, {**found, **context(given.date)})
    return 0
