"""The primitives of linear algebra beside torch.linalg's, on the same matrices in one run.

`python -m bench primitives [NAMES]` prints for each matrix, spectrum and primitive the median
seconds of LAPACK's way (or of cuSOLVER's, with `--device cuda`) and of ours, their ratio, and how
far both are from what they stand for, in float64. With `--records` it keeps them. Deltas and
spectra are those of `python -m bench spectral`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.records import RECORDS, append, context
from bench.spectral import matrices
from cermet.maths import angles, subspace
from cermet.maths.eigen import leading_eigen
from cermet.maths.factors import truncated_product
from cermet.maths.lowrank import column_space, gram, leading, truncated
from cermet.maths.polar import polar

__all__ = ["PRIMITIVES", "Primitive", "main"]

_SHARE = 8  # the leading eighth of the directions, as of eight experts
_RANK = 16  # of a LoRA adapter
_SOME = 32  # directions that `cermet compare` looks at


@dataclass(frozen=True)
class Primitive:
    """What is timed.

    peer, ours: of a matrix, each to what `error` measures, given the matrix in float64. peer_name:
    what of torch does it.
    """

    peer_name: str
    peer: Callable[[Tensor], Any]
    ours: Callable[[Tensor], Any]
    error: Callable[[Tensor, Any], float]


def _svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return left, values, right


def _eighth(matrix: Tensor) -> int:
    return max(1, min(matrix.shape) // _SHARE)


def _cut(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    left, values, right = _svd(matrix)
    return left[:, :rank] * values[:rank], right[:rank]


def _left_out(matrix: Tensor, found: tuple[Tensor, Tensor]) -> float:
    """What a product leaves of a matrix, beyond what any of its rank must, as a share of it."""
    left, right = (side.double() for side in found)
    tail = torch.linalg.svdvals(matrix)[right.shape[0] :].square().sum().sqrt()
    return float((torch.linalg.norm(matrix - left @ right) - tail) / torch.linalg.norm(matrix))


def _projected(matrix: Tensor, basis: Tensor) -> float:
    """As `_left_out`, of the projection onto directions of the outputs."""
    wide = basis.double()
    return _left_out(matrix, (wide, wide.t() @ matrix))


def _away(exact: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], float]:
    """The relative error of a matrix against what LAPACK gives in float64."""

    def error(matrix: Tensor, found: Tensor) -> float:
        expected = exact(matrix)
        return float(torch.linalg.norm(found.double() - expected) / torch.linalg.norm(expected))

    return error


def _triplets(matrix: Tensor) -> tuple[Tensor, Tensor]:
    found = leading(matrix, _eighth(matrix))
    return found.left * found.values.to(matrix.dtype), found.right


def _some(matrix: Tensor) -> tuple[Tensor, Tensor]:
    left, values, right = subspace.leading(matrix, _SOME)
    return left * values, right.t()


def _isometry(matrix: Tensor) -> Tensor:
    left, _, right = _svd(matrix)
    return left @ right


def _halves(matrix: Tensor) -> Tensor:
    """Two deltas side by side, as one block of both."""
    return torch.stack(matrix.chunk(2, dim=1))


def _thin(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Factors of eight adapters: their ranks are rows and columns of the matrix."""
    ranks = min(_SHARE * _RANK, *matrix.shape)
    return matrix[:, :ranks], matrix[:ranks]


def _product(matrix: Tensor) -> Tensor:
    left, right = _thin(matrix)
    return left @ right


def _reduced(matrix: Tensor) -> tuple[Tensor, Tensor]:
    found = truncated_product(*_thin(matrix), _RANK)
    return found.u * found.values, found.v


def _columns(matrix: Tensor) -> Tensor:
    return matrix[:, : min(_RANK * _SHARE, *matrix.shape)]


PRIMITIVES: Mapping[str, Primitive] = {
    "angles.column_space": Primitive(
        "svd",
        lambda m: _svd(_columns(m).double())[0],
        lambda m: angles.column_space(_columns(m)),
        lambda m, basis: _projected(_columns(m), basis),
    ),
    "eigen.leading_eigen": Primitive(
        "eigh",
        lambda m: torch.linalg.eigh(m.double() @ m.double().t()).eigenvectors[:, -_eighth(m) :],
        lambda m: leading_eigen(m.double() @ m.double().t(), _eighth(m)),
        _projected,
    ),
    "factors.truncated_product": Primitive(
        "svd",
        lambda m: _cut(_product(m), _RANK),
        _reduced,
        lambda m, found: _left_out(_product(m), found),
    ),
    "lowrank.column_space": Primitive(
        "svd",
        lambda m: _svd(m.double())[0],
        lambda m: column_space(_halves(m), 0.0, 0.0),
        _projected,
    ),
    "lowrank.gram": Primitive(
        "matmul",
        lambda m: m.double() @ m.double().t(),
        lambda m: gram(m.double()),
        _away(lambda m: m @ m.t()),
    ),
    "lowrank.leading": Primitive("svd", lambda m: _cut(m, _eighth(m)), _triplets, _left_out),
    "lowrank.truncated": Primitive(
        "svd", lambda m: _cut(m, _eighth(m)), lambda m: truncated(m, _eighth(m)), _left_out
    ),
    "polar.polar": Primitive("svd", _isometry, lambda m: polar(m)[0], _away(_isometry)),
    "subspace.leading": Primitive("svd", lambda m: _cut(m, _SOME), _some, _left_out),
}
"""Primitives, each beside the call of torch that does the same."""


def _median(work: Callable[[], Any], repeats: int, device: str) -> float:
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        if device != "cpu":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def _record(name: str, matrix: Tensor, repeats: int, device: str) -> dict[str, Any]:
    """Median seconds of both, after one run each that is measured for its error alone."""
    found, wide = PRIMITIVES[name], matrix.double()
    errors = [found.error(wide, way(matrix)) for way in (found.peer, found.ours)]
    return {
        "kind": "primitives",
        "primitive": name,
        "device": torch.cuda.get_device_name(device) if device != "cpu" else "cpu",
        "peer": f"torch.linalg.{found.peer_name}",
        "repeats": repeats,
        "theirs": _median(lambda: found.peer(matrix), repeats, device),
        "ours": _median(lambda: found.ours(matrix), repeats, device),
        "errors": errors,
    }


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench primitives", description=__doc__)
    add = parser.add_argument
    add("names", nargs="*", help=f"of {', '.join(PRIMITIVES)}; all by default")
    add("--shapes", default="1024x1024,2048x2048", help="rows and columns")
    add("--exponents", default="1,flat", help="of the spectra, which fall as a power of the rank")
    add("--repeats", type=int, default=3, help="of each measurement (default 3)")
    add("--device", default="cpu", help="cpu or cuda")
    add("--threads", type=int, default=1, help="of torch (default 1)")
    add("--records", action="store_true", help="add to the records")
    add("--folder", type=Path, default=RECORDS, help="of the records")
    add("--date", default=datetime.now(UTC).date().isoformat(), help="for the records")
    given = parser.parse_args(arguments)
    for name in given.names:
        if name not in PRIMITIVES:
            parser.error(f"'{name}' is none of {', '.join(PRIMITIVES)}")
    if given.device != "cpu" and not torch.cuda.is_available():
        parser.error(f"there is no '{given.device}' here")
    return given


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; it takes minutes at the default shapes."""
    given = _parsed(arguments)
    torch.set_num_threads(given.threads)
    print("shape      spectrum  primitive                  torch      ours  ratio   errors of both")
    for shape in given.shapes.split(","):
        rows, columns = map(int, shape.split("x"))
        for word in given.exponents.split(","):
            exponent = None if word == "flat" else float(word)
            matrix = matrices(rows, columns, 1, exponent)[0].to(given.device)
            for name in given.names or PRIMITIVES:
                found = _record(name, matrix, given.repeats, given.device)
                slow, fast, (theirs, ours) = found["theirs"], found["ours"], found["errors"]
                times = f"{slow:9.3f} {fast:9.3f} {slow / fast:6.1f}"
                print(
                    f"{shape:<10} {word:<9} {name:<25} {times}   {theirs:8.1e} {ours:8.1e}",
                    flush=True,
                )
                if given.records:
                    where = {"shape": shape, "spectrum": word, "threads": given.threads}
                    append(given.folder, {**found, **where, **context(given.date)})
    return 0
