"""Methods on one matrix beside the authors' form of them, written with torch alone, in one run.

`python -m bench spectral [METHODS]` prints for each matrix, spectrum and method the median seconds
of both on one thread, or on a GPU with `--device cuda`, their ratio, the relative error of both
against the authors' form in float64, and which operations take most of our time; of methods
without such a form here, our seconds. With `--records` it keeps them, and `python
docs/generate.py` shows them. The spectrum is a power law with a stated exponent, flat (independent
numbers), or `lora-16`: adapters of that rank, merged in the space that they span, by the methods
that can be, where the authors' form takes their products.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.authors import AUTHORS
from bench.records import RECORDS, Record, append, context
from cermet import merge_adapters, merge_tensors
from cermet.core.registry import all_methods, find_method
from cermet.maths.lowrank import truncated

__all__ = ["main", "matrices"]

_CODEC = "delta_come"
"""Measured beside the methods: its decomposition of one delta, to a quarter of the rank."""
_QUARTER = 4
_MEMORY = 16_000_000_000
_HEAD = (
    "shape      spectrum method             authors      ours   ratio   errors of both        "
    "our time"
)
_OPERATIONS = 3  # of a profile that are told
_ENOUGH = 60.0  # seconds after which nothing is repeated
_MADE_UP = ("iso_c", "iso_cts", "opcm", "tsv_m")
"""Whose authors' form takes directions of singular value zero for what they are, and those are
made up by rounding: on products of low rank it has no exact result to be compared with."""
_MODULE = "base_model.model.layers.0.mlp.up_proj"


@dataclass(frozen=True)
class Case:
    """The deltas [rows, columns] of some experts, and the factors that they are products of."""

    shape: str
    spectrum: str
    models: Sequence[Tensor]
    factors: Sequence[tuple[Tensor, Tensor]] = ()


def _case(shape: str, word: str, count: int, device: str) -> Case:
    rows, columns = map(int, shape.split("x"))
    if word.startswith("lora-"):
        own, rank = torch.Generator().manual_seed(0), int(word.removeprefix("lora-"))
        pairs = [
            (
                torch.randn(rows, rank, generator=own).mul_(0.01),
                torch.randn(rank, columns, generator=own).div_(rank**0.5),
            )
            for _ in range(count)
        ]
        return Case(shape, word, [(b @ a).to(device) for b, a in pairs], pairs)
    exponent = None if word == "flat" else float(word)
    found = matrices(rows, columns, count, exponent)
    return Case(shape, word, [m.to(device) for m in found])


def matrices(rows: int, columns: int, count: int, exponent: float | None) -> list[Tensor]:
    """Deltas of a size of about 0.01, with spectra that fall as rank^-exponent; None: flat."""
    own, found = torch.Generator().manual_seed(0), []
    for _ in range(count):
        draws = torch.randn(rows, columns, generator=own)
        if exponent is not None:
            size = min(rows, columns)
            left = torch.linalg.qr(torch.randn(rows, size, generator=own)).Q
            right = torch.linalg.qr(torch.randn(columns, size, generator=own)).Q
            values = torch.arange(1, size + 1, dtype=torch.float32) ** -exponent
            draws = (left * values) @ right.t()
        found.append(draws * (0.01 * (rows * columns) ** 0.5 / draws.norm()))
    return found


def _measured() -> list[str]:
    """The methods of the spectral shelf."""
    shelf = "cermet.methods.spectral."
    return [n for n, m in all_methods().items() if m.function.__module__.startswith(shelf)]


def _methods(asked: Sequence[str], case: Case) -> list[str]:
    """What can be measured of the methods asked for."""
    if not case.factors:
        return list(asked)
    return [m for m in asked if m != _CODEC and "equivariant" in find_method(m).properties]


def _authors(method: str) -> Callable[[Sequence[Tensor]], Tensor] | None:
    return _decomposed if method == _CODEC else AUTHORS.get(method)


def _decomposed(models: Sequence[Tensor]) -> Tensor:
    left, values, right = torch.linalg.svd(models[0], full_matrices=False)
    rank = len(values) // _QUARTER
    found: Tensor = (left[:, :rank] * values[:rank]) @ right[:rank]
    return found


def _ours(method: str, case: Case) -> Tensor:
    models = case.models
    if method == _CODEC:
        left, right = truncated(models[0], min(models[0].shape) // _QUARTER)
        return left @ right
    if case.factors:
        return _in_span(method, case)
    found = find_method(method)
    base = None if found.base == "none" else {"w": torch.zeros_like(models[0])}
    needs = {n.name: [{"w": m.t() @ m} for m in models] for n in found.needs}
    experts = [{"w": m} for m in models]
    return merge_tensors(method, base, experts, needs=needs, memory=_MEMORY)["w"]


def _in_span(method: str, case: Case) -> Tensor:
    """The merge of adapters as an adapter, multiplied out."""
    rank = len(case.factors[0][1])
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": ["up_proj"]}
    pairs = [
        ({f"{_MODULE}.lora_B.weight": b, f"{_MODULE}.lora_A.weight": a}, config)
        for b, a in case.factors
    ]
    made, told = merge_adapters(method, pairs, rank=rank * len(pairs))
    scale = told["lora_alpha"] / told["r"]
    product: Tensor = made[f"{_MODULE}.lora_B.weight"] @ made[f"{_MODULE}.lora_A.weight"]
    return product.mul_(scale).to(case.models[0].device)


def _timed(work: Callable[[], Tensor], device: str, repeats: int) -> tuple[float, Tensor]:
    """The median seconds of some runs, fewer where they take long, and what the first gave."""
    seconds, results = list[float](), list[Tensor]()
    while len(seconds) < repeats and sum(seconds) < _ENOUGH:
        began = _now(device)
        found = work()
        seconds.append(_now(device) - began)
        results = results or [found]
    return statistics.median(seconds), results[0]


def _profile(work: Callable[[], Tensor], device: str) -> dict[str, float]:
    """The operations that take most of the time of one run, and their shares of it."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device != "cpu":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as watched:
        work()
        _now(device)
    spent = {
        event.key.removeprefix("aten::"): float(
            event.self_cpu_time_total if device == "cpu" else event.self_device_time_total
        )
        for event in watched.key_averages()
        if event.key.startswith("aten::")
    }
    total = sum(spent.values()) or 1.0
    most = sorted(spent, key=lambda name: -spent[name])[:_OPERATIONS]
    return {name: round(spent[name] / total, 3) for name in most}


def _now(device: str) -> float:
    if device != "cpu":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _record(
    method: str, case: Case, repeats: int, *, device: str, reference: bool
) -> dict[str, Any]:
    """Seconds of both, and their errors; None for what there is no form of."""
    authors, errors = _authors(method), list[float]()
    ours, made = _timed(lambda: _ours(method, case), device, repeats)
    theirs: float | None = None
    if authors is not None:
        theirs, peer = _timed(lambda: authors(case.models), device, repeats)
        if reference and not (case.factors and method in _MADE_UP):
            exact = authors([m.double() for m in case.models])
            errors = [float((x.double() - exact).norm() / exact.norm()) for x in (peer, made)]
    return {
        "kind": "spectral",
        "method": method,
        "shape": case.shape,
        "spectrum": case.spectrum,
        "device": torch.cuda.get_device_name(device) if device != "cpu" else "cpu",
        "experts": len(case.models),
        "repeats": repeats,
        "authors": theirs,
        "ours": ours,
        "errors": errors or None,
        "profile": _profile(lambda: _ours(method, case), device),
    }


def _line(record: Record) -> str:
    """A record as a line of the table."""
    slow, fast, errors = record["authors"], record["ours"], record["errors"]
    shown = ["-", "-"] if errors is None else [f"{x:.1e}" for x in errors]
    theirs = "         -" if slow is None else f"{slow:10.3f}"
    ratio = "      -" if slow is None else f"{slow / fast:7.1f}"
    where = f"{record['shape']:<10} {record['spectrum']:<8} {record['method']:<16}"
    most = ", ".join(f"{name} {share:.0%}" for name, share in record["profile"].items())
    return f"{where} {theirs} {fast:9.4f} {ratio}   {shown[0]:>8} {shown[1]:>8}   {most}"


def _parser(known: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench spectral", description=__doc__)
    parser.add_argument("methods", nargs="*", help=f"of {', '.join(known)}; all by default")
    parser.add_argument("--shapes", default="1024x1024,2048x2048,5632x2048")
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--exponents", default="1,flat", help="numbers, flat, lora-RANK")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--no-reference", action="store_true", help="without the float64 errors")
    parser.add_argument("--records", action="store_true", help="add to the records")
    parser.add_argument("--folder", type=Path, default=RECORDS, help="of the records")
    parser.add_argument("--date", default=datetime.now(UTC).date().isoformat())
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; it takes minutes at the default shapes."""
    known = [*_measured(), _CODEC]
    parser = _parser(known)
    given = parser.parse_args(arguments)
    wrong = [name for name in given.methods if name not in known]
    if wrong:
        parser.error(f"'{wrong[0]}' is none of {', '.join(known)}")
    torch.set_num_threads(1)
    for method in given.methods or known:  # what is imported and set up once is not timed
        _record(method, _case("64x64", "1", 2, given.device), 1,
                device=given.device, reference=False)  # fmt: skip
    print(_HEAD)
    for shape in given.shapes.split(","):
        for word in given.exponents.split(","):
            case = _case(shape, word, given.experts, given.device)
            for method in _methods(given.methods or known, case):
                found = _record(
                    method, case, given.repeats,
                    device=given.device, reference=not given.no_reference,
                )  # fmt: skip
                print(_line(found), flush=True)
                if given.records:
                    append(given.folder, {**found, **context(given.date)})
    return 0


if __name__ == "__main__":
    sys.exit(main())
