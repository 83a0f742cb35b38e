"""Compiling `kernels.c` where it runs, keeping what came out, and looking before trusting it."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from cermet.core.device import processor
from cermet.core.places import cache_folder

__all__ = ["Kept", "Look", "Result", "Stored", "kernels"]

_SOURCE = Path(__file__).with_name("kernels.c")
_COMPILERS = ("cc", "gcc", "clang")
_OPTIONS = (
    "-O3", "-std=gnu11", "-shared", "-fPIC",
    "-ffp-contract=off",  # nothing is fused that the source does not fuse
    "-fno-math-errno", "-fno-trapping-math",  # neither changes a result
)  # fmt: skip
_X86 = ("-mavx2", "-mfma")
_WIDE = tuple(f"-mavx512{part}" for part in ("f", "bw", "dq", "vl"))
# The last of these came with the processors that do not slow down for registers of 512 bits.
_WIDE_FLAGS = {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vbmi2"}
_SECONDS = 60.0  # a compiler that takes longer is given up

_void, _pointer, _long = None, ctypes.c_void_p, ctypes.c_long
_float, _int, _bits = ctypes.c_float, ctypes.c_int, ctypes.c_uint32
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "deltas": (_bits, [_pointer, _pointer, _pointer]),
    "sum": (_bits, [_pointer, _pointer, _pointer, _pointer]),
    "elect": (
        _bits,
        [_pointer, _pointer, _pointer, _pointer, _int, _int, _float, _pointer],
    ),
    "digest": (ctypes.c_uint64, [_pointer, ctypes.c_int64, ctypes.c_uint64, _pointer]),
    "finish": (_void, [_pointer, _pointer, _long, _pointer, _int]),
    "variance": (_bits, [_pointer, _pointer]),
    "tally": (_bits, [_pointer, _int, _long, _long, _pointer]),
    "norms": (_bits, [_pointer, _pointer, _int, _int, _long, _pointer]),
    "gram": (_bits, [_pointer, _long, _pointer]),
    "pack": (_void, [_pointer, _long, _pointer]),
    "unpack": (_void, [_pointer, _long, _pointer]),
    "uniform": (_void, [_pointer, _long, _pointer]),
    "chance": (_void, [_pointer, _long, _float, _long, _pointer]),
    "draw": (_void, [_pointer, _long, _float, _long, _pointer]),
    "ranked": (_int, [_pointer, _long, _pointer, _float, _float, _long, _pointer]),
}


class Stored(ctypes.Structure):
    """`Stored` of stored.h."""

    _fields_ = (
        ("models", ctypes.c_int64), ("origin", _pointer), ("base", _pointer),
        ("kind", ctypes.c_int64), ("n", ctypes.c_int64),
        ("files", _pointer), ("at", _pointer), ("room", _pointer),
        ("chunk", ctypes.c_int64), ("have", ctypes.c_int64), ("first", ctypes.c_int64),
        ("lanes", _pointer), ("digests", _pointer),
        ("failed", ctypes.c_int64), ("which", ctypes.c_int64),
    )  # fmt: skip


class Kept(ctypes.Structure):
    """`Kept` of stored.h; as it is made, everything is kept."""

    _fields_ = (
        ("cuts", ctypes.c_int64), ("above", _pointer), ("inclusive", _pointer), ("end", _pointer),
        ("masks", ctypes.c_int64), ("bits", _pointer), ("mask", _pointer),
        ("vary", ctypes.c_int64), ("until", ctypes.c_int64), ("threshold", _float),
    )  # fmt: skip


class Result(ctypes.Structure):
    """`Result` of result.h."""

    _fields_ = (
        ("room", _pointer), ("kind", ctypes.c_int64), ("chunk", ctypes.c_int64),
        ("begun", ctypes.c_int64), ("file", ctypes.c_int64), ("at", ctypes.c_int64),
        ("first", ctypes.c_int64), ("lanes", _pointer), ("digest", ctypes.c_uint64),
        ("failed", ctypes.c_int64),
    )  # fmt: skip


class Look(ctypes.Structure):
    """`Look` of tally.h."""

    _fields_ = (
        ("row", ctypes.c_int64), ("cap", ctypes.c_int64), ("low", _float), ("high", _float),
        ("above", ctypes.c_int64), ("nonzero", ctypes.c_int64), ("taken", ctypes.c_int64),
        ("top", _pointer), ("inside", _pointer), ("bottom", _pointer), ("kept", _pointer),
    )  # fmt: skip


_lock = threading.Lock()
_loaded: dict[str, Any] = {}  # CERMET_NATIVE -> the library, or None


def kernels() -> Any:
    """The compiled kernels, or None: without a compiler, with CERMET_NATIVE=0, elsewhere.

    The first call compiles them where they are missing. Processes that are forked after it
    have them too.
    """
    wanted = os.environ.get("CERMET_NATIVE", "1")
    if wanted not in _loaded:
        with _lock:
            if wanted not in _loaded:
                _loaded[wanted] = None if wanted == "0" else _library()
    return _loaded[wanted]


def _library() -> Any:
    for options in _machine():
        try:
            library = _linked(options)
            for name, (result, arguments) in _SIGNATURES.items():
                function = getattr(library, f"cermet_{name}")
                function.restype, function.argtypes = result, arguments
        except subprocess.CalledProcessError:
            continue  # an old compiler does not know all instructions
        except (OSError, AttributeError, subprocess.SubprocessError, RuntimeError):
            break
        return library if _trusted(library, _place(options)) else None
    return None  # torch does the work then


def _trusted(library: Any, place: Path) -> bool:
    """Whether the library has agreed with torch: now, or before with this torch and processor."""
    note = place.with_suffix(".agrees")
    chosen = os.environ.get("ATEN_CPU_CAPABILITY", "")
    told = f"torch {version('torch')} on {_kind_of_processor()} {chosen}"
    with contextlib.suppress(OSError):
        if note.read_text() == told:
            return True
    if not _agrees(library):
        return False
    with contextlib.suppress(OSError):
        note.write_text(told)
    return True


def _kind_of_processor() -> str:
    """What tells processors apart for which torch has different code."""
    found = processor()
    told = [found.get(key) for key in ("model name", "flags", "Features")]
    return hashlib.sha256(repr(told).encode()).hexdigest()[:16]


def _linked(options: tuple[str, ...]) -> Any:
    try:
        return ctypes.CDLL(str(_compiled(options)))
    except OSError:
        _place(options).unlink(missing_ok=True)  # damaged: once more
        return ctypes.CDLL(str(_compiled(options)))


def _machine() -> list[tuple[str, ...]]:
    """What the compiler is told of this processor, the fastest first; empty where the kernels
    do not run.
    """
    if sys.platform not in ("linux", "darwin"):
        return []
    if platform.machine() in ("arm64", "aarch64"):
        return [()]
    if platform.machine() != "x86_64" or sys.platform != "linux":
        return []
    flags = set(processor().get("flags", "").split())
    narrow = [_X86] if {"avx2", "fma"} <= flags else []
    wide = [(*_X86, *_WIDE, "-mprefer-vector-width=512")] if flags >= _WIDE_FLAGS else []
    return [*wide, *narrow]


def _place(options: tuple[str, ...]) -> Path:
    """Where the library of this source and its parts, compiled like this, is kept."""
    told = " ".join((*_OPTIONS, *options, sys.platform, platform.machine()))
    code = b"".join(file.read_bytes() for file in (_SOURCE, *sorted(_SOURCE.parent.glob("*.h"))))
    key = hashlib.sha256(code + told.encode()).hexdigest()[:16]
    return cache_folder("native") / f"kernels-{key}.so"


def _compiled(options: tuple[str, ...]) -> Path:
    """The shared library, compiled where it is missing; OSError where it cannot be."""
    library = _place(options)
    if library.is_file():
        return library
    compiler = os.environ.get("CC") or next(filter(None, map(shutil.which, _COMPILERS)), None)
    if compiler is None:
        raise FileNotFoundError("no C compiler")
    library.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        new = Path(folder) / library.name
        command = [*compiler.split(), *_OPTIONS, *options, str(_SOURCE), "-o", str(new), "-lm"]
        subprocess.run(command, check=True, capture_output=True, timeout=_SECONDS)
        new.replace(library)  # whole or not at all, whoever else compiles it now
    return library


def _agrees(library: Any) -> bool:
    """Whether fused sums and roundings give torch's bits on this machine."""
    values = torch.arange(3 * 1031, dtype=torch.float64).sin().float().view(3, 1031)
    factors = [0.3, 0.7, -1.1]
    wanted = values[0] * factors[0]
    for row, factor in zip(values[1:], factors[1:], strict=True):
        wanted.add_(row, alpha=factor)
    origin = (ctypes.c_void_p * 3)(*(row.data_ptr() for row in values))
    stored, kept = Stored(3, ctypes.addressof(origin), None, 0, 1031), Kept()
    exact, rounded = torch.empty(1031), torch.empty(1031, dtype=torch.bfloat16)
    weights = (ctypes.c_float * 3)(*factors)
    for found, kind in ((exact, 0), (rounded, 1)):
        result = Result(found.data_ptr(), kind, 1031, file=-1)
        library.cermet_sum(*map(ctypes.byref, (stored, kept)), weights, ctypes.byref(result))
    return torch.equal(exact, wanted) and torch.equal(rounded, wanted.to(torch.bfloat16))
