"""The compiled kernels give the bits of the torch code that they stand in for."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import cermet
from cermet.checkpoints.dtypes import TORCH
from cermet.core.errors import FormatError, InputError, NonFiniteError
from cermet.core.fingerprint import digest_bytes
from cermet.core.noise import Stream
from cermet.engine.leaves import leaf_grams, leaf_sums
from cermet.maths import native
from cermet.maths.combine import consensus, weighted_sum
from cermet.maths.native import compiled, results
from cermet.maths.native import deltas as passes
from cermet.maths.native.compiled import kernels
from cermet.maths.select import Bracket, Cutoff, tally
from cermet.maths.sparsify import native_cuts, random_mask, rank_mask, sizes
from cermet.methods.variance import _variance

needs_kernels = pytest.mark.skipif(kernels() is None, reason="no C compiler here, or no AVX2")
pytestmark = pytest.mark.usefixtures("unchecked")

SIZES = (1, 7, 1023, 4099)
COUNTS = (1, 2, 3, 4, 5, 9)
KINDS = ("plain", "differences", "zeros", "huge")
INFINITY = float("inf")


def _deltas(kind: str, models: int, n: int) -> Tensor:
    """Float32 [models, n]: ordinary, of bfloat16 weights, with zeros of both signs, or huge."""
    own = torch.Generator().manual_seed(models * n)
    x = torch.randn(models, n, generator=own) * 0.01
    if kind == "differences":
        base = torch.randn(n, generator=own).bfloat16().float()
        return (base + x).bfloat16().float() - base
    if kind == "zeros":
        x = x.round(decimals=2)
        x[torch.rand(models, n, generator=own) < 0.2] = -0.0
    return x * 1e30 if kind == "huge" else x


def _keeps(x: Tensor) -> dict[str, Cutoff | Tensor | None]:
    models, n = x.shape
    middle = [float(row.abs().median()) for row in x]
    high = [max(m, 0.9 * float(row.abs().max())) for m, row in zip(middle, x, strict=True)]
    half, third = (n // 2,), (n // 2, n // 3)
    mask = (torch.rand(x.shape, generator=torch.Generator().manual_seed(n)) < 0.5).float()
    return {
        "all": None,
        "cutoff": Cutoff(tuple((m,) for m in middle), (half,) * models),
        "band": Cutoff(tuple(zip(middle, high, strict=True)), (third,) * models),
        "all or none": Cutoff(
            tuple((INFINITY if i % 2 else -INFINITY,) for i in range(models)), (half,) * models
        ),
        "mask": mask,
        "one mask": mask[:1].clone(),
    }


def _bits(tensor: Tensor) -> list[int]:
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    found: list[int] = tensor.contiguous().view(whole).reshape(-1).tolist()
    return found


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], Any]:
    """Calls a function with the kernels off."""

    def call(function: Callable[[], Any]) -> Any:
        with monkeypatch.context() as off:
            off.setenv("CERMET_NATIVE", "0")
            return function()

    return call


Alone = Callable[[Callable[[], Any]], Any]


@needs_kernels
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("models", COUNTS)
@pytest.mark.parametrize("n", SIZES)
def test_sums_and_elections(kind: str, models: int, n: int, alone: Alone) -> None:
    """Weighted sums and elections, of all that can be kept."""
    x = _deltas(kind, models, n)
    factors = list(np.linspace(-0.7, 1.3, models)) if n % 3 else [1.0] * models
    shares = list(np.linspace(0.1, 1.3, models))
    for name, keep in _keeps(x).items():
        works: list[Callable[[], Tensor]] = [lambda k=keep: weighted_sum(x, factors, k)]
        for votes in (False, True):
            for normalize in (False, True):
                works.append(
                    lambda k=keep, v=votes, m=normalize: consensus(
                        x, factors, shares, normalize=m, scale=0.7, keep=k, equal_votes=v
                    )
                )
        for number, work in enumerate(works):
            assert _bits(work()) == _bits(alone(work)), (name, number)


def _stored(dtype: torch.dtype, models: int, n: int) -> tuple[list[Tensor], Tensor]:
    own = torch.Generator().manual_seed(n)
    base = torch.randn(n, generator=own)
    return [(base + row).to(dtype) for row in _deltas("plain", models, n)], base.to(dtype)


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("models", [1, 3, 5])
@pytest.mark.parametrize("n", [1, 7, 1024, 5003])
def test_passes_over_what_is_stored(dtype: torch.dtype, models: int, n: int) -> None:
    """Deltas, their sums, inner products, variances and order statistics, read as stored."""
    experts, base = _stored(dtype, models, n)
    stored = native.stored(experts, base)
    assert stored is not None
    made, below, most = stored.made()
    deltas, wide = torch.from_numpy(made), torch.from_numpy(below)
    assert torch.equal(wide, base.float())
    assert torch.equal(deltas, torch.stack([e.float() - base.float() for e in experts]))
    assert most == float(deltas.abs().max())

    leaf = 2000
    for keep in _keeps(deltas).values():
        if keep is None:
            continue
        kept = native_cuts(keep) if isinstance(keep, Cutoff) else keep
        norms, most = stored.norms(kept, 1, leaf, before=True)
        wanted = leaf_sums(sizes(deltas, keep), leaf)
        assert torch.equal(torch.from_numpy(norms).double(), wanted)
        assert most == float(deltas.abs().max())
    mask = _keeps(deltas)["mask"]
    assert isinstance(mask, Tensor)
    squares, _ = stored.norms(mask, 2, leaf, before=False)
    wanted = leaf_sums((deltas * mask).square(), leaf)
    assert torch.equal(torch.from_numpy(squares[1]).double(), wanted)
    if models <= 4:
        gram = torch.from_numpy(stored.gram(leaf)[0]).double()
        assert torch.equal(gram, leaf_grams(deltas, leaf))


def _in_file(
    folder: Path, tensors: Sequence[Tensor], dtype: str, first: int, *, based: bool
) -> tuple[native.Deltas, list[int]]:
    """The tensors from element `first` on, end to end in a file behind an odd header, and open
    files that the caller has to close.
    """
    path, content, places = folder / "weights", b"odd", []
    for tensor in tensors:
        width = tensor.element_size()
        places.append(len(content) + first * width)
        content += tensor.view(torch.uint8).numpy().tobytes()
    path.write_bytes(content)
    files = [os.open(path, os.O_RDONLY) for _ in tensors]
    known = [native.Place(f, at, str(path)) for f, at in zip(files, places, strict=True)]
    stored = native.in_files(known, dtype, tensors[0].numel() - first, first, based=based)
    assert stored is not None
    return stored, files


@needs_kernels
@pytest.mark.parametrize("dtype", ["BF16", "F32"])
@pytest.mark.parametrize("models", [1, 3, 6])
@pytest.mark.parametrize(("n", "first"), [(1, 0), (5003, 0), (5003, 3)])
@pytest.mark.parametrize("based", [True, False])
def test_files_are_read_as_memory_is(
    dtype: str, models: int, n: int, first: int, based: bool, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Chunk by chunk, in every pass; what is read, and what is written, is digested on the way."""
    monkeypatch.setattr(passes, "_ROOM", 0)
    monkeypatch.setattr(passes, "_LEAST", 1100)
    monkeypatch.setattr(results, "_SLICE", 4400)
    experts, base = _stored(TORCH[dtype], models, n)
    whole = [*experts, *([base] if based else [])]
    there, files = _in_file(tmp_path, whole, dtype, first, based=based)
    here = native.stored([e[first:] for e in experts], base[first:] if based else None)
    assert here is not None
    deltas = torch.from_numpy(here.made()[0])
    assert torch.equal(torch.from_numpy(there.made()[0]), deltas)
    factors = [0.3 + m for m in range(models)]
    for keep in _keeps(deltas).values():
        kept = native_cuts(keep) if isinstance(keep, Cutoff) else keep
        for act in (
            partial(native.Deltas.summed, factors=factors, keep=kept, dtype=dtype),
            partial(native.Deltas.elected, factors=factors, shares=factors, keep=kept,
                    dtype=dtype, plain=False, normalize=True, scale=0.5),
        ):  # fmt: skip
            found, wanted = there.room(dtype), here.room(dtype)
            assert act(there, found) == act(here, wanted)
            assert np.array_equal(found, wanted)
            assert there.written == 0
            with (tmp_path / "out").open("w+b") as out:
                out.write(b"begin")
                place = native.Place(out.fileno(), 5, "out")
                assert act(there, place) == act(here, wanted)
                assert (tmp_path / "out").read_bytes()[5:] == wanted.tobytes()
            assert there.written == digest_bytes(wanted.view(np.uint8), first * wanted.itemsize)
            assert not here.digests
            assert there.digests == [
                digest_bytes(t[first:].view(torch.uint8).numpy(), first * t.element_size())
                for t in whole
            ]
        norms = [s.norms(kept, 1, 2000, before=True) for s in (there, here)]
        assert np.array_equal(norms[0][0], norms[1][0])
    assert np.array_equal(there.gram(700)[0], here.gram(700)[0])
    assert np.array_equal(there.variance()[0], here.variance()[0])
    threshold = float(np.median(here.variance()[0]))
    masks = [native.varying(n - first, threshold, 9) for _ in range(2)]
    varied = [
        s.norms(m, 2, 900, before=False)[0] for s, m in zip((there, here), masks, strict=True)
    ]
    assert np.array_equal(varied[0], varied[1])
    assert np.array_equal(masks[0].bits, masks[1].bits)
    brackets = [(models - 1, 0.001, 0.01), (0, 0.01, 0.01)]
    told = [s.tallied("magnitude", brackets, 600, 50)[0] for s in (there, here)]
    for one, other in zip(*told, strict=True):
        assert (one.above, one.top, one.inside) == (other.above, other.top, other.inside)
        assert np.array_equal(one.kept, other.kept)
    draws, _ = _draws(models, n - first)
    half = [0.5] * models
    ranked = [s.ranked(draws, half, [0.2] * models, n - first) for s in (there, here)]
    assert np.array_equal(ranked[0].bits, ranked[1].bits)
    for file in files:
        os.close(file)


@needs_kernels
def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """It has become shorter, or the system will not have it: an error that names it."""
    tensors = [torch.zeros(5000), torch.ones(5000)]
    stored, files = _in_file(tmp_path, tensors, "F32", 0, based=False)
    os.truncate(tmp_path / "weights", 30_000)
    with pytest.raises(FormatError, match=r"weights' has become shorter while it was read"):
        stored.summed(stored.room("F32"), [1.0, 1.0], None)
    with pytest.raises(FormatError, match="shorter"):
        stored.gram(1000)
    for file in files:
        os.close(file)
    with pytest.raises(InputError, match=r"weights' cannot be read: Bad file descriptor"):
        stored.summed(stored.room("F32"), [1.0, 1.0], None)


@needs_kernels
def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    """What the system says of it is an error."""
    stored, files = _in_file(tmp_path, [torch.ones(90_000)], "F32", 0, based=False)
    closed = native.Place(os.dup(files[0]), 0, "out")
    os.close(closed.file)
    with pytest.raises(OSError, match="Bad file descriptor"):
        stored.summed(closed, [1.0], None)
    for file in files:
        os.close(file)


@needs_kernels
@pytest.mark.parametrize("offset", [0, 3, 8, 131_064, 131_071, 1 << 40])
@pytest.mark.parametrize("size", [0, 1, 7, 8, 300, 262_159])
def test_digests(offset: int, size: int) -> None:
    """Of bytes anywhere in a tensor, also across rows of constants."""
    data = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)
    assert native.digest(data, offset) == digest_bytes(data, offset)


@needs_kernels
@pytest.mark.parametrize("models", COUNTS)
@pytest.mark.parametrize("n", SIZES)
def test_variance(models: int, n: int, alone: Alone) -> None:
    """The variance over models, and the bits of what passes a cutoff of it."""
    x = _deltas("differences", models, n)
    found = _variance(x)
    assert _bits(found) == _bits(alone(lambda: _variance(x)))
    stored = native.stored(list(x))
    assert stored is not None
    threshold = float(found.median())
    wanted = np.where(np.arange(n) < n // 2, found[0] >= threshold, found[0] > threshold)
    bits = native.varying(n, threshold, n // 2)
    kept, _ = stored.norms(bits, 2, 1000, before=False)
    assert np.array_equal(bits.bits, np.packbits(wanted))
    assert bits.above is None
    again, _ = stored.norms(bits, 2, 1000, before=False)
    assert np.array_equal(kept, again)
    ones = [1.0] * models
    for act in (
        partial(stored.summed, factors=ones),
        partial(stored.elected, factors=ones, shares=ones, plain=True, normalize=True, scale=0.5),
    ):
        other = native.varying(n, threshold, n // 2)
        made = []
        for mask in (other, bits):
            made.append(stored.room("BF16"))
            assert act(made[-1], keep=mask, dtype="BF16") is not None
        assert np.array_equal(made[0], made[1])
        assert np.array_equal(other.bits, bits.bits)


@needs_kernels
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize(
    "bounds",
    [(0.001, 0.01), (0.01, 0.01), (-INFINITY, 0.01), (0.0, INFINITY), (-INFINITY, INFINITY)],
)
def test_tallies(kind: str, n: int, bounds: tuple[float, float], alone: Alone) -> None:
    """Counts by leaf, and the values inside a bracket up to a cap."""
    x = _deltas(kind, 3, n)
    at = Bracket(np.float32(bounds[0]), np.float32(bounds[1]))
    for cap in (0, 5, 10_000):
        found = tally(x[0], at, 100, cap, nonzero=True)
        wanted = alone(lambda c=cap: tally(x[0], at, 100, c, nonzero=True))
        assert np.array_equal(found.kept, wanted.kept)
        for field in ("above", "top", "inside", "bottom", "nonzero"):
            assert getattr(found, field) == getattr(wanted, field), field
    stored = native.stored(list(x))
    assert stored is not None
    told, _ = stored.tallied("magnitude", [(2, *bounds), (0, *bounds)], 100, 5)
    for row, one in zip((2, 0), told, strict=True):
        wanted = alone(lambda r=row: tally(x[r].abs(), at, 100, 5, nonzero=True))
        assert (one.above, one.inside, one.nonzero) == (wanted.above, wanted.inside, wanted.nonzero)
        assert np.array_equal(one.kept, wanted.kept)


def _draws(models: int, n: int) -> tuple[list[np.ndarray[Any, Any]], Tensor]:
    """16-bit draws, and the numbers in [0, 1) that they stand for."""
    drawn = np.random.default_rng(n).integers(-(1 << 15), 1 << 15, (models, n)).astype(np.int16)
    uniform = (torch.from_numpy(drawn).float() + 32768) / 65536
    return list(drawn), uniform


@needs_kernels
@pytest.mark.parametrize("n", SIZES)
def test_random_masks(n: int) -> None:
    """Draws as numbers, masks as bits end to end whatever their length, and back."""
    draws, uniform = _draws(3, n)
    numbers = native.uniform(np.stack(draws))
    assert numbers is not None
    assert torch.equal(numbers, uniform)
    density = (0.0, 0.37, 1.0)
    wanted = random_mask(uniform, density)
    bits = native.chance(draws, density)
    assert bits is not None
    assert np.array_equal(bits.bits, np.packbits(wanted.numpy() != 0))
    assert np.array_equal(bits.bits, native.packed(wanted))
    assert torch.equal(wanted, native.unpacked(bits.bits, wanted.shape))


@needs_kernels
@pytest.mark.parametrize("start", [0, 4, 1 << 40])
@pytest.mark.parametrize("n", SIZES)
def test_draws_from_a_state(n: int, start: int) -> None:
    """The same masks as from the numbers that NumPy draws, wherever they begin."""
    shares = (0.0, 0.37, 0.9)
    streams = [Stream(7, "weight", m) for m in range(3)]
    states = [stream.state(start) for stream in streams]
    assert all(state is not None for state in states)
    drawn = native.drawn([state for state in states if state is not None], shares, n)
    again = [stream.draw(start, start + n).view("int16") for stream in streams]
    wanted = native.chance(again, shares)
    assert drawn is not None
    assert wanted is not None
    assert np.array_equal(drawn.bits, wanted.bits)
    assert streams[0].state(start + 1) is None


def _rows(kind: str, models: int, n: int) -> Tensor:
    """As `_deltas`; or equal, or apart by one bit, or over all of float32's octaves."""
    if kind == "equal":
        return torch.full((models, n), -0.25)
    own = torch.Generator().manual_seed(n)
    if kind == "near":  # one bucket of the kernel's: all are compared, or the row is sorted
        order = torch.stack([torch.randperm(n, generator=own) for _ in range(models)])
        return (order.int() + 0x3F800000).view(torch.float32)
    if kind == "far":
        return torch.randn(models, n, generator=own) * 2.0 ** torch.randint(
            -149, 100, (models, n), generator=own
        )
    return _deltas(kind, models, n)


@needs_kernels
@pytest.mark.parametrize(
    ("rows", "columns"), [(1, 1), (4, 2), (5, 7), (9, 64), (3, 1030), (2, 2048), (2, 18_001)]
)
@pytest.mark.parametrize("kind", ["plain", "differences", "zeros", "equal", "near", "far"])
def test_masks_by_rank(rows: int, columns: int, kind: str) -> None:
    """DELLA's mask, with ties, whatever the magnitudes, and with shares that need no ranks."""
    x, n = _rows(kind, 5, rows * columns), rows * columns
    draws, uniform = _draws(5, n)
    density, epsilon = (0.5, 0.3, 1.0, 0.4, 0.5), (0.2, 0.29, 0.1, 0.0, 0.5)
    shape = (5, rows, columns)
    wanted = rank_mask(x.view(shape), uniform.view(shape), density, epsilon)
    stored = native.stored(list(x))
    assert stored is not None
    found = stored.ranked(draws, density, epsilon, columns)
    assert np.array_equal(found.bits, np.packbits(wanted.numpy().reshape(-1) != 0))


@needs_kernels
def test_rounding() -> None:
    """Once, to the nearest, ties to even, as torch: of all kinds of float32."""
    patterns = np.random.default_rng(0).integers(0, 1 << 32, 100_000, dtype=np.uint32)
    ties = (np.arange(1 << 16, dtype=np.uint32) << 16) + 0x8000
    values = torch.from_numpy(np.concatenate([patterns, ties]).view(np.float32).copy())
    for base in (None, torch.zeros_like(values)):
        found = native.finished(values, base, torch.bfloat16)
        assert found is not None
        wanted = (values if base is None else values + base).bfloat16()
        assert torch.equal(found.isnan(), wanted.isnan())
        numbers = ~wanted.isnan()  # torch has two patterns for NaN
        assert _bits(found[numbers]) == _bits(wanted[numbers])


def test_what_the_kernels_do_not_take() -> None:
    """Other dtypes, gaps in memory, too many models: the caller is told to go on with torch."""
    x = torch.ones(2, 8)
    assert native.stored(list(x.half())) is None
    assert native.stored([x[0], x[1].bfloat16()]) is None
    assert native.stored(list(x.t())) is None
    assert native.stored([x[0]] * 65) is None
    assert native.finished(x[0], None, torch.float16) is None
    assert torch.equal(weighted_sum(torch.ones(65, 3), [1.0] * 65), torch.full((3,), 65.0))
    with pytest.raises(RuntimeError, match="overflow"):
        weighted_sum(x, [1.0, 1e300])  # no float32: torch refuses it, and no kernel takes it


@needs_kernels
@pytest.mark.parametrize("value", [float("nan"), INFINITY])
@pytest.mark.parametrize("method", ["linear", "ties", "dare_ties", "sce", "slerp"])
def test_what_is_not_finite_is_named(value: float, method: str) -> None:
    """NaN and infinity are noticed in the same pass, and named as without kernels."""
    models = [{"x": torch.randn(300)} for _ in range(3)]
    models[1]["x"][123] = value
    parameters: dict[str, Any] = {} if method in ("sce", "slerp") else {"weight": 0.5}
    parameters |= {"density": 0.5} if method in ("ties", "dare_ties") else {}
    parameters |= {"t": 0.5} if method == "slerp" else {}
    base = None if method == "linear" else models[0]
    experts = models[1:2] if method == "slerp" else models[1:]
    with pytest.raises(NonFiniteError, match="element 123"):
        cermet.merge_tensors(method, base, experts, **parameters)


# -- compiling ----------------------------------------------------------------


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """As if nothing was compiled or loaded yet; the folder of what is compiled."""
    monkeypatch.setattr(compiled, "_loaded", {})
    monkeypatch.setenv("CERMET_CACHE", str(tmp_path))
    monkeypatch.delenv("CERMET_NATIVE", raising=False)
    return tmp_path / "native"


def _files(folder: Path) -> Sequence[str]:
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []


@needs_kernels
def test_it_is_compiled_once(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One library in the cache, whole, which the next process takes as it is."""
    assert kernels() is not None
    note, library = sorted(_files(fresh))
    assert (Path(note).suffix, Path(library).suffix) == (".agrees", ".so")
    monkeypatch.setattr(compiled, "_loaded", {})
    monkeypatch.setenv("CC", "/no/such/compiler")
    assert kernels() is not None
    assert sorted(_files(fresh)) == [note, library]


@needs_kernels
def test_it_is_compared_with_torch_once(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A note says with which torch on which processor; where it says another, once more."""
    looked: list[object] = []
    agrees = compiled._agrees
    monkeypatch.setattr(compiled, "_agrees", lambda lib: looked.append(lib) or agrees(lib))
    for times, change in ((1, None), (1, None), (2, "ATEN_CPU_CAPABILITY"), (3, "note")):
        if change == "note":
            next(fresh.glob("*.agrees")).write_text("torch 1.0 on another processor")
        elif change:
            monkeypatch.setenv(change, "default")
        monkeypatch.setattr(compiled, "_loaded", {})
        assert kernels() is not None
        assert len(looked) == times


@pytest.mark.parametrize("compiler", ["/no/such/compiler", "false"])
def test_without_a_compiler_torch_does_the_work(
    compiler: str, fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No compiler, or one that fails: no kernels, no error, nothing left behind."""
    monkeypatch.setenv("CC", compiler)
    assert kernels() is None
    assert _files(fresh) == []
    merged = cermet.merge_tensors("linear", None, [{"x": torch.ones(3)}] * 2, weight=0.5)
    assert torch.equal(merged["x"], torch.ones(3))


def test_they_can_be_turned_off(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CERMET_NATIVE=0 compiles nothing."""
    monkeypatch.setenv("CERMET_NATIVE", "0")
    assert kernels() is None
    assert _files(fresh) == []


@needs_kernels
def test_a_damaged_library_is_made_again(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be loaded is compiled again; without a compiler torch does the work."""
    library = compiled._place(compiled._machine()[0])
    library.parent.mkdir(parents=True)
    library.write_bytes(b"no library")
    with monkeypatch.context() as patch:
        patch.setenv("CC", "false")
        assert kernels() is None
    library.write_bytes(b"no library")
    monkeypatch.setattr(compiled, "_loaded", {})
    assert kernels() is not None


@needs_kernels
def test_a_compiler_that_does_not_know_all_instructions(
    fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernels are compiled for those that it knows."""
    if len(compiled._machine()) < 2:
        pytest.skip("this processor has no wider instructions than AVX2")
    real = next(filter(None, map(shutil.which, compiled._COMPILERS)))
    old = tmp_path / "old-compiler"
    old.write_text(f'#!/bin/sh\ncase "$*" in *avx512*) exit 1;; esac\nexec {real} "$@"\n')
    old.chmod(0o755)
    monkeypatch.setenv("CC", str(old))
    assert kernels() is not None
    assert compiled._place(compiled._machine()[-1]).name in _files(fresh)


@needs_kernels
def test_every_width_gives_the_same_bits(
    fresh: Path, alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is compiled for older processors of this kind too."""
    x = _deltas("zeros", 3, 5003)
    mask = _keeps(x)["one mask"]

    def made() -> list[Tensor]:
        elected = consensus(x, [0.3, 1.0, -0.2], [0.5] * 3, normalize=True, scale=0.7, keep=mask)
        return [elected, _variance(x), weighted_sum(x, [0.2, 0.3, 0.4], mask)]

    wanted = [_bits(t) for t in alone(made)]
    for options in compiled._machine():
        monkeypatch.setattr(compiled, "_loaded", {})
        monkeypatch.setattr(compiled, "_machine", lambda only=options: [only])
        assert kernels() is not None
        assert [_bits(t) for t in made()] == wanted, options


@needs_kernels
def test_kernels_that_disagree_are_not_used(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where fused sums have other bits than torch's, the kernels are left alone."""
    other = fresh.parent / "sources"
    shutil.copytree(Path(compiled.__file__).parent, other)
    part = other / "merge.h"
    fused = part.read_text("utf-8")
    assert "fmaf(x, factor, total[i])" in fused
    part.write_text(fused.replace("fmaf(x, factor, total[i])", "x * factor + total[i]"))
    monkeypatch.setattr(compiled, "_SOURCE", other / "kernels.c")
    assert kernels() is None
