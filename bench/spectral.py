"""Methods on one matrix beside the authors' form of them, written with torch alone, in one run.

`python -m bench spectral [METHODS]` prints for each matrix, spectrum and method the median seconds
of both on one thread, their ratio, and the relative error of both against the authors' form in
float64; of methods without such a form here, our seconds. With `--records` it keeps them, and
`python docs/generate.py` shows them. The spectrum is a power law with a stated exponent, or flat
(independent numbers).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.records import RECORDS, Record, append, context
from cermet import merge_tensors
from cermet.core.registry import all_methods, find_method

__all__ = ["AUTHORS", "main", "matrices"]

_STEPS = 300
_RATE = 1e-5


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


def _svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return left, values, right


def _whitened(matrix: Tensor) -> Tensor:
    left, _, right = _svd(matrix)
    return left @ right


def _tsv_m(models: Sequence[Tensor]) -> Tensor:
    rank = int(min(models[0].shape) / len(models))
    parts = [_svd(m) for m in models]
    left = _whitened(torch.cat([u[:, :rank] for u, _, _ in parts], dim=1))
    right = _whitened(torch.cat([v[:rank] for _, _, v in parts]))
    return (left * torch.cat([s[:rank] for _, s, _ in parts])) @ right


def _iso_c(models: Sequence[Tensor]) -> Tensor:
    left, values, right = _svd(torch.stack(list(models)).sum(dim=0))
    return values.mean() * (left @ right)


def _iso_cts(models: Sequence[Tensor]) -> Tensor:
    size = min(models[0].shape)
    own = round((size - int(size * 0.8)) / len(models))
    left, values, right = _svd(torch.stack(list(models)).sum(dim=0))
    kept = size - own * len(models)
    first = left[:, :kept]
    parts = [_svd(m - first @ (first.t() @ m)) for m in models]
    mean = torch.cat([*(s[:own] for _, s, _ in parts), values[:kept]]).mean()
    u = _whitened(torch.cat([*(u[:, :own] for u, _, _ in parts), first], dim=1))
    v = _whitened(torch.cat([*(v[:own] for _, _, v in parts), right[:kept]]))
    return mean * (u @ v)


def _wudi(models: Sequence[Tensor]) -> Tensor:
    together = torch.stack(list(models))
    shares = 1.0 / together.square().sum(dim=(1, 2))
    point = torch.nn.Parameter(together.sum(dim=0))
    optimizer = torch.optim.Adam([point], lr=_RATE)
    for _ in range(_STEPS):
        optimizer.zero_grad()
        product = (point - together) @ together.transpose(1, 2)
        loss = (product.square().sum(dim=(1, 2)) * shares).sum()
        torch.autograd.backward(loss)
        optimizer.step()
    return point.detach()


def _knots_ties(models: Sequence[Tensor]) -> Tensor:
    left, values, right = _svd(torch.cat(list(models), dim=1).double())
    kept = int((values > 1e-5).sum())
    blocks = (values[:kept, None] * right[:kept]).chunk(len(models), dim=1)
    parts = torch.stack(blocks).to(models[0].dtype)
    agreeing = parts * (parts.sign() == parts.sum(dim=0).sign())
    mean = agreeing.sum(dim=0) / (agreeing != 0).sum(dim=0).clamp_min(1)
    return left[:, :kept].to(models[0].dtype) @ mean


AUTHORS: Mapping[str, Callable[[Sequence[Tensor]], Tensor]] = {
    "iso_c": _iso_c,
    "iso_cts": _iso_cts,
    "knots_ties": _knots_ties,
    "tsv_m": _tsv_m,
    "wudi": _wudi,
}
"""Methods as their authors write them."""


def _measured() -> list[str]:
    """The methods of the spectral shelf."""
    shelf = "cermet.methods.spectral."
    return [n for n, m in all_methods().items() if m.function.__module__.startswith(shelf)]


def _ours(method: str, models: Sequence[Tensor]) -> Tensor:
    found = find_method(method)
    base = None if found.base == "none" else {"w": torch.zeros_like(models[0])}
    needs = {n.name: [{"w": m.t() @ m} for m in models] for n in found.needs}
    return merge_tensors(method, base, [{"w": m} for m in models], needs=needs)["w"]


def _median(work: Callable[[], Any], repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def _record(
    method: str, models: Sequence[Tensor], repeats: int, *, reference: bool
) -> dict[str, Any]:
    """Seconds of both on one thread, and their errors; None for what there is no form of."""
    authors, ours = AUTHORS.get(method), _ours(method, models)
    errors: list[float] | None = None
    if authors is not None and reference:
        exact = authors([m.double() for m in models])
        both = (authors(models), ours)
        errors = [float((x.double() - exact).norm() / exact.norm()) for x in both]
    return {
        "kind": "spectral",
        "method": method,
        "experts": len(models),
        "repeats": repeats,
        "authors": None if authors is None else _median(lambda: authors(models), repeats),
        "ours": _median(lambda: _ours(method, models), repeats),
        "errors": errors,
    }


def _line(record: Record) -> str:
    """A record as a line of the table."""
    slow, fast, errors = record["authors"], record["ours"], record["errors"]
    shown = ["-", "-"] if errors is None else [f"{x:.1e}" for x in errors]
    theirs = "        -" if slow is None else f"{slow:9.2f}"
    ratio = "     -" if slow is None else f"{slow / fast:6.1f}"
    return f"{theirs} {fast:9.2f} {ratio}   {shown[0]:>8} {shown[1]:>8}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; it takes minutes at the default shapes."""
    known = _measured()
    parser = argparse.ArgumentParser(prog="python -m bench spectral", description=__doc__)
    parser.add_argument("methods", nargs="*", help=f"of {', '.join(known)}; all by default")
    parser.add_argument("--shapes", default="1024x1024,2048x2048,5632x2048")
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--exponents", default="1,flat")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-reference", action="store_true", help="without the float64 errors")
    parser.add_argument("--records", action="store_true", help="add to the records")
    parser.add_argument("--folder", type=Path, default=RECORDS, help="of the records")
    parser.add_argument("--date", default=datetime.now(UTC).date().isoformat())
    given = parser.parse_args(arguments)
    wrong = [name for name in given.methods if name not in known]
    if wrong:
        parser.error(f"'{wrong[0]}' is none of {', '.join(known)}")
    torch.set_num_threads(1)
    print("shape      spectrum  method        authors      ours  ratio   errors of both")
    for shape in given.shapes.split(","):
        rows, columns = map(int, shape.split("x"))
        for word in given.exponents.split(","):
            exponent = None if word == "flat" else float(word)
            models = matrices(rows, columns, given.experts, exponent)
            for method in given.methods or known:
                found = _record(method, models, given.repeats, reference=not given.no_reference)
                print(f"{shape:<10} {word:<9} {method:<12} {_line(found)}", flush=True)
                if given.records:
                    whole = {**found, "shape": shape, "spectrum": word, **context(given.date)}
                    append(given.folder, whole)
    return 0


if __name__ == "__main__":
    sys.exit(main())
