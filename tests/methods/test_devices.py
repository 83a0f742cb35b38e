"""Every method on a simulated GPU: the bits of the CPU, with nothing left behind on it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import cermet
import cermet.adapters
from cermet.core.registry import all_factor_methods
from cermet.engine.options import Options
from cermet.maths.eigen import leading_eigen
from cermet.maths.lowrank import gram, leading
from cermet.maths.polar import polar
from cermet.maths.pursuit import Atoms, pursue
from cermet.maths.subspace import leading as leading_subspaces
from tests.gpu import OnGpu, Simulated, to_gpu
from tests.maths.spectra import falling
from tests.methods.factors.adapters import adapter
from tests.methods.forms import FORMS, METHODS, Form, label, pool, same_bits
from tests.recipes.pools import save_llama

SHAPES = {"w": (12, 20), "b": (5,), "c": (2, 3, 4), "empty": (0, 4), "one": (1,)}
ON_GPU = partial(Options, device="cuda")

SPECTRAL = "cermet.methods.spectral"
CHOSEN = [
    form
    for name in METHODS
    for place, form in enumerate(f for f in FORMS if f.method.name == name)
    if place < 2 or form.method.function.__module__.startswith(SPECTRAL)
]
"""Every method with its defaults and with shares below 1; those on matrices in every form."""

ADAPTERS = {**all_factor_methods(), **{n: METHODS[n] for n in ("opcm", "tsv_m", "ties")}}
"""Methods on factors, on cores in the span of all, and on whole deltas."""


def _there(model: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: to_gpu(tensor) for name, tensor in model.items()}


@pytest.mark.parametrize("form", CHOSEN, ids=label)
def test_the_bits_of_the_cpu(form: Form) -> None:
    base, experts = pool(form.experts, SHAPES)
    expected = form.merge(base, experts, seed=3)
    with Simulated():
        found = form.merge(_there(base), [_there(e) for e in experts], seed=3)
    assert all(isinstance(tensor, OnGpu) for tensor in found.values())
    assert same_bits({name: tensor.cpu() for name, tensor in found.items()}, expected)


@pytest.mark.parametrize("method", ["ties", "tsv_m"])
def test_a_recipe_whose_files_are_sent_there(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = {
        "merge_method": method,
        "base_model": save_llama(tmp_path / "base", 0),
        "models": [{"model": save_llama(tmp_path / f"m{i}", i)} for i in (1, 2)],
        "parameters": {"weight": 0.5, "density": 0.5} if method == "ties" else {},
    }
    cermet.merge(recipe, tmp_path / "here", threads=1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU that is not there")
    with Simulated():
        cermet.merge(recipe, tmp_path / "there", threads=1, device="cuda")
    found, expected = cermet.open(tmp_path / "there"), cermet.open(tmp_path / "here")
    assert same_bits(dict(found), dict(expected))


@pytest.mark.parametrize("name", ADAPTERS)
def test_of_adapters(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    held = [adapter(3, 1, 5), adapter(3, 2, 7)]
    given: dict[str, Any] = {"weight": 1.0, "density": 0.5, "svd_clamp": 0.9}
    given = {k: v for k, v in given.items() if k in ADAPTERS[name].parameters}
    expected, _ = cermet.merge_adapters(name, held, **given)
    monkeypatch.setattr(cermet.adapters, "Options", ON_GPU)
    with Simulated():
        found, _ = cermet.merge_adapters(name, held, **given)
    assert same_bits(found, expected)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    parts = value if isinstance(value, tuple) else [getattr(value, n) for n in value.__slots__]
    return [part for part in parts if isinstance(part, Tensor)]


LARGE = {
    "gram by halves": lambda m: gram(m.double()),
    "leading_eigen by iteration": lambda m: leading_eigen(gram(m.double()), 30),
    "leading": lambda m: leading(m, 30),
    "leading of a subspace": lambda m: leading_subspaces(m, 30),
    "polar by iteration": polar,
}
"""Paths that only large matrices take."""


@pytest.mark.parametrize("name", LARGE)
def test_of_large_matrices(name: str) -> None:
    matrix = falling(530, 530, 1e2)
    with Simulated():
        found = _tensors(LARGE[name](to_gpu(matrix)))
    assert all(isinstance(part, OnGpu) for part in found)
    for part, other in zip(found, _tensors(LARGE[name](matrix)), strict=True):
        assert torch.equal(part.cpu(), other)


def test_of_a_pursuit() -> None:
    words, targets = falling(40, 12, 10.0), falling(5, 12, 3.0)
    with Simulated():
        found = pursue(to_gpu(targets), Atoms(to_gpu(words)), 4)
    assert isinstance(found.coefficients, OnGpu)
    assert torch.equal(found.indices.cpu(), pursue(targets, Atoms(words), 4).indices)


def test_the_simulation_refuses_what_a_gpu_refuses() -> None:
    """Otherwise the tests above would say nothing."""
    with Simulated():
        far = torch.zeros(3, device="cuda")
        assert (far.is_cuda, far.device.type, torch.zeros(3).is_cuda) == (True, "cuda", False)
        assert isinstance(far.new_empty(2) + 1.0 + torch.tensor(2.0), OnGpu)
        assert not isinstance(far.cpu(), OnGpu)
        assert not isinstance(torch.ones(3).copy_(far), OnGpu)
        with pytest.raises(RuntimeError, match="tensors of the CPU and of a GPU"):
            far + torch.ones(3)
        with pytest.raises(RuntimeError, match="tensors of the CPU and of a GPU"):
            torch.cat([far, torch.zeros(3)])
        for host in (far.numpy, partial(np.asarray, far)):
            with pytest.raises(TypeError, match="handed to NumPy"):
                host()
