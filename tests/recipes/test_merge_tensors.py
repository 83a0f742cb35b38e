"""`cermet.merge_tensors`: any method on tensors in memory, with the code that merges files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import cermet
from cermet.core.errors import FormatError, MethodError, MismatchError, NonFiniteError
from tests.recipes.pools import llama, merged, save_llama

_BASE, _EXPERTS = llama(0), [llama(1), llama(2)]
_FORMS: Mapping[str, Mapping[str, Any]] = {
    "ties": {"weight": [0.5, 1.0], "density": 0.4},
    "della": {"weight": 0.5, "density": 0.5, "epsilon": 0.2},
    "dare_ties": {"weight": (0.5, 0.7), "density": [0.3, 0.9]},
    "model_stock": {},
    "sce": {"select_topk": 0.5},
    "karcher": {},
    "linear": {"weight": [1, 3]},
}


@pytest.mark.parametrize("method", _FORMS)
def test_the_same_numbers_as_a_merge_of_files(method: str, tmp_path: Path) -> None:
    numbers = dict(_FORMS[method])
    paths = [save_llama(tmp_path / str(i), i) for i in range(3)]
    own: list[dict[str, Any]] = [{}, {}]
    for name, value in list(numbers.items()):
        if isinstance(value, list | tuple):
            del numbers[name]
            for i, v in enumerate(value):
                own[i][name] = v
    models = [{"model": p, "parameters": o} for p, o in zip(paths[1:], own, strict=True)]
    recipe = {"merge_method": method, "models": models, "parameters": numbers, "seed": 5}
    base = None if method in ("linear", "karcher") else _BASE
    if base is not None:
        recipe["base_model"] = paths[0]
    on_disk = merged(recipe, tmp_path / "out")
    found = cermet.merge_tensors(method, base, _EXPERTS, seed=5, **_FORMS[method])
    assert set(found) == set(on_disk)
    assert all(torch.equal(found[name], on_disk[name]) for name in found)


def test_a_number_is_the_same_for_every_expert() -> None:
    one = cermet.merge_tensors("task_arithmetic", _BASE, _EXPERTS, weight=0.4)
    two = cermet.merge_tensors("task_arithmetic", _BASE, _EXPERTS, weight=[0.4, 0.4])
    assert all(torch.equal(one[n], two[n]) for n in one)


def test_lambda_may_be_spelt_with_a_line() -> None:
    one = cermet.merge_tensors("task_arithmetic", _BASE, _EXPERTS, weight=1, lambda_=0.5)
    two = cermet.merge_tensors("task_arithmetic", _BASE, _EXPERTS, weight=1, **{"lambda": 0.5})
    assert all(torch.equal(one[n], two[n]) for n in one)


def test_the_seed_decides_and_nothing_else() -> None:
    numbers = {"weight": 1.0, "density": 0.5}
    first, again, other = (
        cermet.merge_tensors("dare_linear", _BASE, _EXPERTS, seed=s, threads=t, block=b, **numbers)
        for s, t, b in ((1, 1, None), (1, 2, 100), (2, 1, None))
    )
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])


def test_noise_takes_the_place_of_the_seed() -> None:
    base = {"x": torch.zeros(2, 3)}
    experts = [{"x": torch.full((2, 3), 1.0)}, {"x": torch.full((2, 3), 10.0)}]
    low, high = torch.zeros(3), torch.full((3,), 0.99)
    noise = {"x": torch.stack([torch.stack([low, high]), torch.stack([high, low])])}
    found = cermet.merge_tensors(
        "dare_linear", base, experts, weight=1.0, density=0.5, rescale=False, noise=noise
    )["x"]
    one, other = found.unique().tolist()
    assert {one, other} == {1.0, 10.0}
    assert found.tolist() in ([[1.0] * 3, [10.0] * 3], [[10.0] * 3, [1.0] * 3])


def _changed(name: str, value: Tensor | None) -> list[dict[str, Tensor]]:
    """The experts, the second with one tensor more, less or other."""
    second = {**_EXPERTS[1], name: value}
    return [_EXPERTS[0], {n: t for n, t in second.items() if t is not None}]


@pytest.mark.parametrize(
    ("method", "base", "experts", "more", "kind", "words"),
    [
        ("tise", _BASE, _EXPERTS, {}, MethodError, "no method 'tise'. Did you mean 'ties'"),
        ("ties", _BASE, _EXPERTS, {}, MethodError, "'ties' needs 'weight'"),
        ("ties", _BASE, _EXPERTS, {"wieght": 1}, MethodError, "Did you mean 'weight'"),
        ("ties", None, _EXPERTS, {"weight": 1}, MethodError, "'ties' needs a base"),
        ("linear", _BASE, _EXPERTS, {"weight": 1}, MethodError, "takes no base; give it as one"),
        ("slerp", _BASE, _EXPERTS, {"t": 0.5}, MethodError, "does not take 2 experts"),
        ("ties", _BASE, [], {"weight": 1}, MethodError, "does not take 0 experts"),
        ("ties", _BASE, _EXPERTS, {"weight": [1]}, MethodError, "has 1 values for 2 experts"),
        ("ties", _BASE, _EXPERTS, {"weight": "1x"}, MethodError, "takes a number, not '1x'"),
        ("ties", _BASE, _EXPERTS, {"weight": [1, None]}, MethodError, "a number, not None"),
        ("ties", _BASE, _EXPERTS, {"weight": 1, "density": 2}, MethodError, "at most 1, not 2"),
        ("ties", _BASE, _EXPERTS, {"weight": 1, "normalize": [True]}, MethodError, "true or"),
        ("ties", _BASE, _EXPERTS, {"weight": 1, "needs": {"fisher": {}}}, MethodError, "fisher"),
        ("ties", _BASE, _EXPERTS, {"weight": 1, "noise": {}}, MethodError, "takes no noise"),
        ("dare_ties", _BASE, _EXPERTS, {"weight": 1, "noise": {}}, MethodError, "is missing"),
        (
            "dare_ties", {"x": torch.ones(3)}, [{"x": torch.ones(3)}],
            {"weight": 1, "noise": {"x": torch.ones(3)}}, MethodError, r"must be \[1, 3\]",
        ),
        ("karcher", None, _changed("lm_head.weight", None), {}, MismatchError, "missing in"),
        ("karcher", None, _changed("new", torch.ones(2)), {}, MismatchError, "'new' of expert1"),
        (
            "karcher", None, _changed("model.norm.weight", torch.ones(3)), {}, MismatchError,
            r"is \[16\] in expert0 but \[3\] in expert1",
        ),
        (
            "karcher", None, _changed("model.norm.weight", torch.full((16,), torch.inf)), {},
            NonFiniteError, "'model.norm.weight' of model 'expert1' holds inf",
        ),
        (
            "karcher", None, [{"x": torch.ones(2, dtype=torch.complex64)}] * 2, {}, FormatError,
            "'x' of expert0 is torch.complex64",
        ),
    ],
)  # fmt: skip
def test_mistakes_are_one_sentence(
    method: str, base: Any, experts: Any, more: Any, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words) as caught:
        cermet.merge_tensors(method, base, experts, **more)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)


def test_inputs_are_not_touched() -> None:
    before = [{n: t.clone() for n, t in m.items()} for m in (_BASE, *_EXPERTS)]
    cermet.merge_tensors("ties", _BASE, _EXPERTS, weight=1.0, density=0.5)
    for model, copy in zip((_BASE, *_EXPERTS), before, strict=True):
        assert all(torch.equal(model[n], copy[n]) for n in copy)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_the_result_has_the_dtype_of_the_base(dtype: torch.dtype) -> None:
    base, expert = {"x": torch.zeros(4, dtype=dtype)}, {"x": torch.ones(4)}
    found = cermet.merge_tensors("task_arithmetic", base, [expert], weight=0.5)["x"]
    assert (found.dtype, found.tolist()) == (dtype, [0.5] * 4)


def test_integers_are_copied_and_must_be_equal() -> None:
    one, two = ({"ids": torch.arange(3) + i, "x": torch.ones(2)} for i in (0, 1))
    assert cermet.merge_tensors("linear", None, [one, one], weight=1)["ids"].tolist() == [0, 1, 2]
    with pytest.raises(MismatchError, match="The buffer 'ids' of model 'expert1' differs"):
        cermet.merge_tensors("linear", None, [one, two], weight=1)


def test_tensors_that_are_views_are_read_as_they_look() -> None:
    turned = {"x": torch.arange(6.0).view(2, 3).t()}
    found = cermet.merge_tensors("linear", None, [turned, turned], weight=1)["x"]
    assert torch.equal(found, turned["x"])
    assert found.is_contiguous()
