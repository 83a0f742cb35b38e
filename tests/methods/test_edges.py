"""Every method at the edges: nothing to merge, one element, nine experts, half precision."""

from __future__ import annotations

import pytest
import torch

import cermet
from cermet import MismatchError, NonFiniteError, merge_tensors
from tests.methods.forms import DEFAULTS, FORMS, SHAPES, Form, Model, label, pool, same_bits

_every_form = pytest.mark.parametrize("form", FORMS, ids=label)
_every_method = pytest.mark.parametrize("form", DEFAULTS, ids=label)


def _models(form: Form, model: Model) -> tuple[Model, list[Model]]:
    """A base and experts that are all the same model."""
    return dict(model), [dict(model) for _ in range(form.experts)]


@_every_form
def test_shapes_and_dtype_are_kept(form: Form) -> None:
    base, experts = pool(form.experts)
    merged = form.merge(base, experts)
    assert {n: tuple(t.shape) for n, t in merged.items()} == SHAPES
    assert all(t.dtype == torch.float32 and bool(t.isfinite().all()) for t in merged.values())


@_every_form
def test_inputs_are_left_alone(form: Form) -> None:
    base, experts = pool(form.experts)
    form.merge(base, experts)
    again, others = pool(form.experts)
    assert same_bits(base, again)
    assert all(same_bits(a, b) for a, b in zip(experts, others, strict=True))


@pytest.mark.parametrize(
    "form", [f for f in FORMS if f.method.name != "breadcrumbs_official"], ids=label
)
def test_scalar_and_vector_of_one(form: Form) -> None:
    """A 0-d tensor is merged as a vector of one element is (which Breadcrumbs' authors drop)."""
    base, experts = pool(form.experts, {"x": ()})
    lifted = [{"x": m["x"].reshape(1)} for m in (base, *experts)]
    scalar = form.merge(base, experts)["x"]
    assert torch.equal(scalar.reshape(1), form.merge(lifted[0], lifted[1:])["x"])


@_every_form
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once(form: Form, dtype: torch.dtype) -> None:
    """Merging in half precision is merging in float32, rounded at the end."""
    base, experts = pool(form.experts, dtype=dtype)
    merged = form.merge(base, experts)
    wide = [{n: t.float() for n, t in m.items()} for m in (base, *experts)]
    reference = form.merge(wide[0], wide[1:])
    assert same_bits(merged, {n: t.to(dtype) for n, t in reference.items()})


@pytest.mark.parametrize("form", [f for f in FORMS if f.method.models[1] is None], ids=label)
def test_nine_experts(form: Form) -> None:
    nine = form.with_experts(9)
    base, experts = pool(9)
    merged = nine.merge(base, experts)
    assert all(bool(t.isfinite().all()) for t in merged.values())
    assert same_bits(nine.merge(base, experts, block=7, threads=2), merged)
    fewer = nine.with_experts(8).merge(base, experts[:8])
    # nothing here stands in a layer, so some methods leave the base
    assert not same_bits(fewer, merged) or same_bits(merged, base)


@pytest.mark.parametrize(
    "form", [f for f in FORMS if f.method.on == "deltas" and f.base], ids=label
)
def test_experts_that_are_the_base_give_the_base(form: Form) -> None:
    """Deltas of zero: exactly the base, and nothing divided by their norms."""
    base, _ = pool(0)
    assert same_bits(form.merge(*_models(form, base)), base)


@_every_form
def test_models_of_zeros(form: Form) -> None:
    zeros = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    assert all(bool((t == 0).all()) for t in form.merge(*_models(form, zeros)).values())


@_every_form
def test_one_model_of_zeros(form: Form) -> None:
    """A vector without a direction among others makes no NaN."""
    base, experts = pool(form.experts)
    experts[0] = {name: torch.zeros_like(t) for name, t in experts[0].items()}
    merged = form.merge(base, experts)
    assert all(bool(t.isfinite().all()) for t in merged.values())


@_every_method
def test_buffers_are_copied(form: Form) -> None:
    """Integers and truth values are not averaged; where they differ, the merge is refused."""
    base, experts = pool(form.experts, {"w": (4,)})
    for model in (base, *experts):
        model["ids"] = torch.tensor([2**40 + 1, -3])
        model["seen"] = torch.tensor(True)
    merged = form.merge(base, experts)
    assert torch.equal(merged["ids"], torch.tensor([2**40 + 1, -3]))
    assert merged["seen"].dtype == torch.bool
    assert bool(merged["seen"])
    if form.experts + form.base > 1:
        experts[-1]["ids"] = torch.tensor([0, -3])
        with pytest.raises(MismatchError, match="'ids'"):
            form.merge(base, experts)


@_every_method
def test_tensors_must_fit(form: Form) -> None:
    """A missing tensor, another shape or whole numbers: named, never skipped."""
    if form.experts + form.base == 1:
        with pytest.raises(cermet.MethodError):
            form.merge(None, [])
        return
    for wrong in (None, torch.zeros(2, 3), torch.zeros(3, 2).long()):
        base, experts = pool(form.experts, {"a": (5,), "w": (3, 2)})
        if wrong is None:
            del experts[0]["w"]
        else:
            experts[0]["w"] = wrong
        with pytest.raises(MismatchError, match="'w'"):
            form.merge(base, experts)


def test_float16_that_overflows_is_refused() -> None:
    models = [{"w": torch.full((3,), 60_000.0, dtype=torch.float16)}] * 2
    with pytest.raises(NonFiniteError, match=r"'w'.*65,504"):
        merge_tensors("linear", None, models, weight=1, normalize=False)


@pytest.mark.parametrize("method", ["slerp", "karcher", "model_stock", "multislerp", "nuslerp"])
def test_values_whose_squares_overflow_are_refused(method: str) -> None:
    """Not NaN: the angle between such tensors cannot be measured in float32."""
    one, other = {"w": torch.full((3,), 1e30)}, {"w": torch.tensor([-1e30, 1e30, -1e30])}
    zero = {"w": torch.zeros(3)}
    given = {
        "slerp": (one, [other], {"t": 0.5}),
        "karcher": (None, [one, other], {}),
        "model_stock": (zero, [one, other], {}),
        "multislerp": (None, [one, other], {"weight": 1}),
        "nuslerp": (None, [one, other], {"weight": 1}),
    }
    base, experts, parameters = given[method]
    with pytest.raises(NonFiniteError, match=r"'w'.*float32"):
        merge_tensors(method, base, experts, **parameters)


@pytest.mark.parametrize("threads", [0, 1, 2, 5])
def test_any_number_of_threads_does_the_work(threads: int) -> None:
    base, experts = pool(2)
    expected = merge_tensors("task_arithmetic", base, experts, weight=0.5)
    found = merge_tensors("task_arithmetic", base, experts, weight=0.5, threads=threads)
    assert same_bits(found, expected)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float8_e4m3fn])
def test_a_dtype_that_cannot_be_merged_is_refused(dtype: torch.dtype) -> None:
    """It must not vanish from the result."""
    models = [{"w": torch.ones(3), "odd": torch.ones(3).to(dtype)}] * 2
    with pytest.raises(cermet.FormatError, match="'odd'"):
        merge_tensors("linear", None, models, weight=1)
