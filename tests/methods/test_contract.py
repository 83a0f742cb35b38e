"""The contract of every method, over the registry: what is declared is true.

A cut never changes a bit, unless it is finer than the declared grain; declared properties
hold; the same seed gives the same bits on any executor; NaN and infinity are refused.
"""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import cermet.engine.job as engine_job
import cermet.maths
import cermet.methods
from cermet import NonFiniteError
from cermet.core.registry import all_factor_methods, all_methods, all_transforms
from cermet.engine.geometry import Geometry, geometry
from tests.maths.spectra import orthogonal
from tests.methods.forms import (
    DEFAULTS,
    FORMS,
    METHODS,
    SHAPES,
    Form,
    Model,
    label,
    pool,
    same_bits,
)

KNOWN = {"permutation", "idempotent", "homogeneous", "odd", "elementwise", "equivariant"}
RANDOM = [form for form in FORMS if form.method.noise and "density" in form.parameters]
WHOLE_ROWS = [
    form for form in FORMS if form.grain != "element" and (form in RANDOM or not form.method.noise)
]
"""Forms whose grain matters: at density 1 nothing is ranked."""

ASSEMBLIES = [form for form in FORMS if form.method.parts]
"""Forms of methods that keep something of each expert."""

_DRAWS = re.compile(r"torch\.(rand|normal|bernoulli|multinomial)|np\.random|(bernoulli|uniform)_\(")

_every_form = pytest.mark.parametrize("form", FORMS, ids=label)


def declaring(name: str, forms: list[Form]) -> pytest.MarkDecorator:
    """Runs a test over the forms whose method declares a property."""
    chosen = [form for form in forms if name in form.method.properties]
    return pytest.mark.parametrize("form", chosen, ids=label)


def _close(one: Mapping[str, Any], other: Mapping[str, Any], tolerance: float = 2e-6) -> None:
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=tolerance, atol=tolerance)


def _without_base(experts: list[Model]) -> Model:
    return {name: torch.zeros_like(value) for name, value in experts[0].items()}


def test_twenty_methods_and_a_form_of_each() -> None:
    assert len(METHODS) >= 20
    assert {form.method.name for form in FORMS} == set(METHODS)


SUMS = [form for form in FORMS if form.method.coefficients is not None]
"""Forms of methods that the engine may add up model by model."""


@pytest.mark.parametrize("form", SUMS, ids=label)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_coefficients_give_the_bits_of_the_method(
    form: Form, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, experts = pool(form.experts, SHAPES, dtype=dtype)
    by_sum = form.merge(base, experts, block=64)
    monkeypatch.setattr(engine_job.Job, "_coefficients", lambda self: None)
    assert same_bits(by_sum, form.merge(base, experts, block=64))


def test_declared_properties_are_known() -> None:
    """A property that no test holds a method to is no property."""
    assert all(method.properties <= KNOWN for method in METHODS.values())


@pytest.mark.usefixtures("unchecked")
@_every_form
def test_cut_equals_whole(form: Form) -> None:
    base, experts = pool(form.experts, ties=True)
    whole = form.merge(base, experts, seed=5)
    for block in (1, 7, 30):
        assert same_bits(form.merge(base, experts, seed=5, block=block), whole)


@pytest.mark.usefixtures("unchecked")
@_every_form
def test_cut_equals_whole_beyond_a_leaf(form: Form) -> None:
    """The tensor has two leaves of reductions and more; the blocks end inside of both."""
    square = any(need.square for need in form.method.needs)  # as large as the inputs squared
    base, experts = pool(form.experts, {"w": (30_011, 3) if square else (3, 30_011)}, ties=True)
    whole = form.merge(base, experts, seed=5)
    assert same_bits(form.merge(base, experts, seed=5, block=9_973), whole)
    assert same_bits(form.merge(base, experts, seed=5, block=65_537, threads=2), whole)


@given(
    form=st.sampled_from(FORMS),
    shape=st.lists(st.integers(0, 6), max_size=4).map(tuple),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    block=st.integers(1, 50),
    seed=st.integers(0, 9),
)
def test_any_cut_of_any_shape(
    form: Form, shape: tuple[int, ...], dtype: torch.dtype, block: int, seed: int
) -> None:
    base, experts = pool(form.experts, {"w": shape}, seed=seed, dtype=dtype, ties=bool(seed % 2))
    whole = form.merge(base, experts, seed=seed)
    assert whole["w"].shape == shape
    assert same_bits(form.merge(base, experts, seed=seed, block=block, threads=2), whole)


@pytest.mark.parametrize("form", ASSEMBLIES, ids=label)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("shapes", "block"), [(SHAPES, 7), ({"w": (3, 30_011)}, 9_973)])
def test_an_expert_is_restored_the_same_from_any_cut(
    form: Form, dtype: torch.dtype, shapes: dict[str, tuple[int, ...]], block: int
) -> None:
    base, experts = pool(form.experts, shapes, dtype=dtype, ties=True)
    task = {0: 1.0, form.experts - 1: 0.5} if form.experts > 1 else 0
    for asked in (0, task):
        whole = form.merge(base, experts, task=asked)
        assert same_bits(form.merge(base, experts, task=asked, block=block, threads=2), whole)


@pytest.mark.parametrize("form", ASSEMBLIES, ids=label)
def test_restoring_wants_experts_that_are_there(form: Form) -> None:
    base, experts = pool(form.experts)
    with pytest.raises(cermet.MethodError, match=r"no expert 9; they are 0 to"):
        form.merge(base, experts, task=9)
    with pytest.raises(cermet.InputError, match="positive numbers, not 0=-1"):
        form.merge(base, experts, task={0: -1.0})


def test_a_method_of_one_model_restores_nothing() -> None:
    with pytest.raises(cermet.MethodError, match="makes one model"):
        cermet.merge_tensors("linear", None, [{"w": torch.ones(2)}], weight=1, task=0)


def _halved(shape: tuple[int, ...], grain: Any, block: int) -> Geometry:
    """The cut of a tensor whose rows are taken for twice as many of half the length."""
    found = geometry(shape, grain, block)
    assert found.length is not None
    half = found.length // 2
    return dataclasses.replace(found, unit=half, length=half)


@pytest.mark.parametrize("form", WHOLE_ROWS, ids=label)
def test_a_finer_cut_changes_the_result(form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the declared grain would be coarser than it has to be."""
    rows, columns = (20, 24) if form.method.parts else (6, 8)  # a rank below 1 keeps nothing
    base, experts = pool(form.experts, {"w": (rows, columns)})
    own = {"task": 0} if form.method.parts else {}  # the merged model may be simpler than its parts
    noise = {"noise": {"w": _uniform(form.experts, 6, 8)}} if form.method.noise else {}
    whole = form.merge(base, experts, **noise, **own)["w"]
    if form.grain == "row" and not form.method.parts:
        monkeypatch.setattr(engine_job, "geometry", _halved)
        finer = form.merge(base, experts, **noise)["w"]
    else:
        turned = (lambda x: x.t()) if form.grain == "row" else (lambda x: x)  # rows are cut across
        models = [{"w": turned(m["w"])} for m in (base, *experts)]
        cut = [[_rows(m, at) for m in models] for at in (0, len(models[0]["w"]) // 2)]
        half = [[{"w": turned(m["w"]).contiguous()} for m in part] for part in cut]
        finer = torch.cat([turned(form.merge(m[0], m[1:], **own)["w"]) for m in half])
        finer = turned(finer)
    assert not torch.equal(finer, whole)


def _uniform(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(3))


def _rows(model: Model, first: int) -> Model:
    """Half of the rows."""
    return {n: v[first : first + len(v) // 2].clone() for n, v in model.items()}


@declaring("permutation", FORMS)
def test_permutation(form: Form) -> None:
    """The order of the models does not matter, if their numbers move with them."""
    base, experts = pool(form.experts)
    order = list(range(form.experts))[::-1]
    moved = form.permuted(order).merge(base, [experts[i] for i in order])
    _close(moved, form.merge(base, experts))


@declaring("idempotent", DEFAULTS)
def test_idempotent(form: Form) -> None:
    """Experts that are all the same give that expert."""
    base, experts = pool(1)
    if form.method.base == "first":
        base = experts[0]
    _close(form.merge(base, experts * form.experts), experts[0])


@declaring("homogeneous", FORMS)
def test_homogeneous(form: Form) -> None:
    """Deltas four times as large give a merged delta four times as large, bit for bit."""
    _, experts = pool(form.experts)
    large = [{n: v * 4 for n, v in e.items()} for e in experts]
    one = form.merge(_without_base(experts), experts)
    assert same_bits(form.merge(_without_base(experts), large), {n: v * 4 for n, v in one.items()})


@declaring("odd", FORMS)
def test_odd(form: Form) -> None:
    """Deltas of the other sign give a merged delta of the other sign."""
    _, experts = pool(form.experts)
    negative = [{n: -v for n, v in e.items()} for e in experts]
    one = form.merge(_without_base(experts), experts)
    _close(
        form.merge(_without_base(experts), negative), {n: -v for n, v in one.items()}, tolerance=0
    )


@declaring("elementwise", FORMS)
def test_elementwise(form: Form) -> None:
    """An element of the result depends on that element of the models alone."""
    base, experts = pool(form.experts, {"w": (40,)})
    models = [base, *experts]
    part = [{"w": m["w"][9:23].clone()} for m in models]
    whole = form.merge(base, experts)["w"][9:23]
    assert torch.equal(form.merge(part[0], part[1:])["w"], whole)


@declaring("equivariant", FORMS)
@pytest.mark.parametrize("shape", [(7, 12), (11, 6)], ids=str)
def test_equivariant(form: Form, shape: tuple[int, int]) -> None:
    """Deltas in other orthonormal bases of outputs and inputs give the merged delta in these."""
    left, right = (orthogonal(side, side, 5).float() for side in shape)

    def turned(models: list[Model]) -> list[Model]:
        return [{n: left @ v @ right for n, v in model.items()} for model in models]

    base, experts = pool(form.experts, {"w": shape, "v": shape})
    deltas = [{n: v - base[n] for n, v in e.items()} for e in experts]
    zero = _without_base(deltas)
    one = turned([form.merge(zero, deltas)])[0]
    _close(form.merge(zero, turned(deltas)), one, tolerance=2e-5)


@pytest.mark.parametrize("form", RANDOM, ids=label)
def test_seed_and_executor(form: Form) -> None:
    """The same seed gives the same bits on one thread and two; another seed gives others."""
    base, experts = pool(form.experts, {"a": (40, 30), "b": (40, 30)})
    first = form.merge(base, experts, seed=1)
    assert same_bits(form.merge(base, experts, seed=1), first)
    assert same_bits(form.merge(base, experts, seed=1, threads=2), first)
    assert not same_bits(form.merge(base, experts, seed=2), first)


@pytest.mark.parametrize("form", RANDOM, ids=label)
def test_every_tensor_and_model_has_its_own_draws(form: Form) -> None:
    """Equal deltas under two names, or of two models, are not sparsified alike."""
    zeros = {name: torch.zeros(40, 30) for name in ("a", "b")}
    ones = {name: torch.full((40, 30), 0.1) for name in ("a", "b")}
    merged = form.merge(zeros, [ones] * form.experts)
    assert not torch.equal(merged["a"], merged["b"])
    if form.experts > 1 and "normalize" not in form.parameters and form.grain != "matrix":
        assert len(merged["a"].unique()) > 2


@pytest.mark.parametrize("form", [f for f in DEFAULTS if not f.method.noise], ids=label)
def test_nothing_random_where_no_noise_is_declared(form: Form) -> None:
    base, experts = pool(form.experts)
    assert same_bits(form.merge(base, experts, seed=1), form.merge(base, experts, seed=2))


@_every_form
def test_non_finite_input_is_refused(form: Form) -> None:
    """The message names the model and the tensor, wherever the value stands."""
    names = [*(f"expert{i}" for i in range(form.experts)), *(["base"] if form.base else [])]
    for index, name in enumerate(names):
        base, experts = pool(form.experts, {"sound": (4, 6), "bad": (4, 6)})
        value = (float("nan"), float("inf"), float("-inf"))[index % 3]
        [*experts, base][index]["bad"][2, index % 6] = value
        with pytest.raises(NonFiniteError, match=rf"'bad' of model '{name}' holds") as caught:
            form.merge(base, experts, block=5)
        assert f"{value}" in str(caught.value)


def test_a_method_is_found_by_the_name_of_its_file() -> None:
    """So that a merge imports the methods of its recipe and no others."""
    for shelf in (all_methods(), all_transforms(), all_factor_methods()):
        for name, entry in shelf.items():
            assert entry.function.__module__.rpartition(".")[2] == name
    code = (
        "import sys; from cermet.core.registry import *; find_method('slerp'); find_step('lines');"
        "assert not on_factors('slerp') and on_factors('lora_ties') and not on_factors(None);"
        "print(*(m.rpartition('.')[2] for m in sys.modules if m.startswith('cermet.methods.')))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(told.stdout.split())
    assert {"slerp", "lines", "lora_ties"} <= loaded
    assert not {"ties", "emr", "karcher", "tsv_m"} & loaded


def test_random_numbers_come_from_the_engine_alone() -> None:
    """`torch.rand` and its kin appear nowhere in methods/ and maths/."""
    for package in (cermet.methods, cermet.maths):
        for path in Path(package.__path__[0]).rglob("*.py"):
            assert not _DRAWS.search(path.read_text("utf-8")), path


def test_shapes_and_dtypes_are_checked_here() -> None:
    """The signatures of methods are held to at every call under pytest."""
    with pytest.raises(jaxtyping.TypeCheckError):
        METHODS["linear"].function(torch.ones(2, 3, dtype=torch.int64), weight=(1.0, 1.0))
    with pytest.raises(jaxtyping.TypeCheckError):
        METHODS["slerp"].function(torch.ones(3, 4), ends=(0.5, 0.5), t=0.5)


def test_shapes_are_those_of_the_contract() -> None:
    """Every kind of tensor that the other tests rely on is there."""
    ranks = {len(shape) for shape in SHAPES.values()}
    assert ranks >= {0, 1, 2, 3}
    assert any(0 in shape for shape in SHAPES.values())
