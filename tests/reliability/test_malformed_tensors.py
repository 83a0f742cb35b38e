"""Checkpoints that do not fit together, or hold what is no number: model and tensor are named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from cermet import api
from cermet.core.errors import MismatchError, NonFiniteError
from tests.reliability.malformed import (
    BUFFER,
    HEAD,
    RECIPE,
    WEIGHTS,
    Case,
    Pool,
    Q,
    cases,
    each,
    refused,
    sound,
)

Spoil = Callable[[Pool], object]
NORM = "model.norm.weight"
INF, NAN = float("inf"), float("nan")
_DTYPES = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
    "fp64": torch.float64,
}
_VALUES = {"nan": NAN, "inf": INF, "-inf": -INF}


def _set(model: str, tensor: str, value: torch.Tensor | None) -> Spoil:
    return lambda pool: pool.set_tensors(model, {tensor: value})


def _poisoned(model: str, tensor: str, place: int, value: float, dtype: torch.dtype) -> Spoil:
    """Every model in this dtype, and one element of one of them spoilt."""

    def act(pool: Pool) -> None:
        for seed, name in enumerate(("base", "a", "b")):
            values = {
                k: v.to(dtype) if v.is_floating_point() else v for k, v in sound(seed).items()
            }
            if name == model:
                values[tensor].view(-1)[place] = value
            pool.write(f"{name}/{WEIGHTS}", save(values))

    return act


def _by(recipe: str, model: str, tensor: str, place: int, value: float = NAN) -> Spoil:
    """One spoilt element, merged by another recipe."""

    def act(pool: Pool) -> None:
        _poisoned(model, tensor, place, value, torch.float32)(pool)
        pool.recipe = recipe

    return act


_PLACES = {"first": 0, "middle": 7, "last": -1}
NON_FINITE = [
    Case(
        "values that are no numbers",
        f"{word} in {dtype} of {model}, {place}",
        NonFiniteError,
        (f"'{Q}'", f"/in/{model}'", f"holds {word}", f"element {_PLACES[place] % 16}"),
        _poisoned(model, Q, _PLACES[place], value, _DTYPES[dtype]),
    )
    for dtype in _DTYPES
    for word, value in _VALUES.items()
    for model, place in (("base", "first"), ("a", "last"), ("b", "middle"))
]

_METHODS = {
    "ties": "density: 0.5",
    "dare_ties": "density: 0.5",
    "della": "density: 0.5, epsilon: 0.1",
    "breadcrumbs": "density: 0.5, gamma: 0.1",
    "sce": "select_topk: 0.5",
    "ram": "",
    "ramplus_tl": "",
    "model_stock": "",
    "multislerp": "weight: 1",
    "linear": "weight: 1",
    "karcher": "",
    "nuslerp": "weight: 1, nuslerp_flatten: false",
    "nuslerp by column": "weight: 1, nuslerp_flatten: false, nuslerp_row_wise: true",
}


def _recipe(method: str, parameters: str) -> str:
    name = method.split()[0]
    weight = ", parameters: {weight: 1}" if name not in ("linear", "multislerp", "nuslerp") else ""
    weight = "" if name in ("sce", "ram", "ramplus_tl", "model_stock", "karcher") else weight
    base = "" if name in ("linear", "karcher") else "base_model: <base>\n"
    models = ", ".join(f"{{model: <{m}>{weight}}}" for m in ("a", "b"))
    return f"merge_method: {name}\n{base}parameters: {{{parameters}}}\nmodels: [{models}]\n"


# what is trimmed, masked or not selected must not hide it: 0 x NaN is the trap
NON_FINITE += [
    Case(
        "values that are no numbers",
        f"by {method}, {word}",
        NonFiniteError,
        (f"'{HEAD}'", "/in/b'", word),
        _by(_recipe(method, parameters), "b", HEAD, 23, value),
    )
    for method, parameters in _METHODS.items()
    for word, value in (("nan", NAN), ("inf", INF))
]
_ONE = "base_model: <base>\nmodels: [{model: <b>}]\n"
_LONE = {
    "slerp": f"merge_method: slerp\nparameters: {{t: 0}}\n{_ONE}",
    "nearswap": f"merge_method: nearswap\nparameters: {{t: 0}}\n{_ONE}",
    "arcee_fusion": f"merge_method: arcee_fusion\n{_ONE}",
    "passthrough": "merge_method: passthrough\nmodels: [{model: <b>}]\n",
    "passthrough, scaled": "merge_method: passthrough\nmodels: [{model: <b>}]\n"
    "parameters: {scale: 0}\n",
    "a weight of zero": RECIPE.replace("0.25", "0"),
    "a density of zero": _recipe("ties", "density: 0"),
    "a base of its own": RECIPE.replace("model: <a>", "model: <a>\n    delta_of: <b>"),
}
NON_FINITE += [
    Case(
        "values that are no numbers",
        f"by {name}",
        NonFiniteError,
        (f"'{NORM}'", "/in/b'", "nan", "element 3"),
        _by(recipe, "b", NORM, 3),
    )
    for name, recipe in _LONE.items()
]


def _scaled(out: str, weight: str, value: float = 1.0, dtype: str = "fp32") -> Spoil:
    """Models whose head begins with a value, merged with a weight into a dtype."""

    def act(pool: Pool) -> None:
        _poisoned("a", HEAD, 0, value, _DTYPES[dtype])(pool)
        pool.recipe = RECIPE.replace("dtype: float32", f"out_dtype: {out}").replace("0.5", weight)

    return act


_TEXT = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}
OVERFLOW = [
    Case(
        "outputs beyond their dtype",
        name,
        NonFiniteError,
        (f"'{HEAD}'", "output", _TEXT[out]),
        _scaled(out, weight, value, dtype),
    )
    for name, out, weight, value, dtype in (
        ("fp16 by value", "float16", "1", 70_000.0, "fp32"),
        ("fp16 by weight", "float16", "1e6", 1.0, "fp32"),
        ("fp16 below", "float16", "1", -70_000.0, "fp32"),
        ("fp16 by little", "float16", "1", 65_540.0, "fp32"),
        ("fp16 from bf16", "float16", "1", 1e20, "bf16"),
        ("fp16 from fp64", "float16", "1", 1e20, "fp64"),
        ("fp16 from fp16", "float16", "3", 60_000.0, "fp16"),
        ("bf16 by weight", "bfloat16", "1e29", 1e10, "fp32"),
        ("bf16 by value", "bfloat16", "2", 3e38, "bf16"),
        ("fp32 by weight", "float32", "1e29", 1e10, "fp32"),
        ("fp32 by value", "float32", "2", 3e38, "fp32"),
        ("fp32 below", "float32", "2", -3e38, "fp32"),
    )
]


def _other_shape(model: str, tensor: str, *shape: int) -> Spoil:
    return _set(model, tensor, torch.ones(shape))


OVERFLOW += [
    Case(
        "outputs beyond their dtype",
        f"{dtype} cast to fp16",
        NonFiniteError,
        (f"'{HEAD}'", "/in/a'", "inf as F16"),
        lambda pool, dtype=dtype: (
            _scaled("float16", "1", 1e20, dtype)(pool), pool.swap("out_dtype", "dtype")
        ),
    )
    for dtype in ("bf16", "fp32", "fp64")
]  # fmt: skip

SHAPES = cases(
    "unequal shapes",
    MismatchError,
    (f"'{HEAD}'", "/in/b'"),
    {
        "one row more": _other_shape("b", HEAD, 7, 4),
        "one row less": _other_shape("b", HEAD, 5, 4),
        "one column more": _other_shape("b", HEAD, 6, 5),
        "turned": _other_shape("b", HEAD, 4, 6),
        "flat": _other_shape("b", HEAD, 24),
        "as many elements": _other_shape("b", HEAD, 12, 2),
        "one dimension more": _other_shape("b", HEAD, 1, 6, 4),
        "one at the end": _other_shape("b", HEAD, 6, 4, 1),
        "one element": _other_shape("b", HEAD, 1),
        "a scalar": _other_shape("b", HEAD),
        "empty": _other_shape("b", HEAD, 0, 4),
        "no rows, and packed": _other_shape("b", HEAD, 6, 0),
        "vocabulary padded": _other_shape("b", HEAD, 64, 4),
    },
) + cases(
    "unequal shapes",
    MismatchError,
    (f"'{Q}'", "in '"),
    {"of the base": _other_shape("base", Q, 4, 2), "of the first": _other_shape("a", Q, 2, 4)},
)

_Q2 = "model.layers.1.mlp.up_proj.weight"
MISSING = [
    Case("missing and extra tensors", name, MismatchError, (f"'{tensor}'", f"/in/{model}'"), spoil)
    for name, tensor, model, spoil in (
        ("b has no q", Q, "b", _set("b", Q, None)),
        ("a has no q", Q, "a", _set("a", Q, None)),
        ("base has no q", Q, "base", _set("base", Q, None)),
        ("b has no up", _Q2, "b", _set("b", _Q2, None)),
        ("b has no norm", NORM, "b", _set("b", NORM, None)),
        ("b has no embedding", "model.embed_tokens.weight", "b",
         _set("b", "model.embed_tokens.weight", None)),
        ("b has a bias", f"{Q}.bias", "b", _set("b", f"{Q}.bias", torch.ones(4))),
        ("a has a bias", "lm_head.bias", "a", _set("a", "lm_head.bias", torch.ones(6))),
        ("base has a bias", "lm_head.bias", "a", _set("base", "lm_head.bias", torch.ones(6))),
        ("b has a scale", f"{Q}_scale", "b", _set("b", f"{Q}_scale", torch.ones(1))),
        ("b has a classifier", "score.weight", "b", _set("b", "score.weight", torch.ones(2, 4))),
        ("b says weights", "model.norm.weights", "b", lambda pool: pool.set_tensors(
            "b", {NORM: None, "model.norm.weights": torch.ones(4)})),
        ("b says LM_HEAD", "LM_HEAD.weight", "b", lambda pool: pool.set_tensors(
            "b", {HEAD: None, "LM_HEAD.weight": torch.ones(6, 4)})),
    )
]  # fmt: skip
MISSING += cases(
    "missing and extra tensors",
    MismatchError,
    "no tensors",
    {
        "all are empty": lambda pool: [
            pool.write(f"{m}/{WEIGHTS}", save({})) for m in ("base", "a", "b")
        ]
    },
)

BUFFERS = cases(
    "buffers that differ",
    MismatchError,
    (f"'{BUFFER}'", "buffer"),
    {
        "one value of b": _set("b", BUFFER, torch.tensor([0, 1, 2, 3, 4, 6])),
        "one value of a": _set("a", BUFFER, torch.tensor([1, 1, 2, 3, 4, 5])),
        "one value of the base": _set("base", BUFFER, torch.tensor([0, 1, 2, 3, 4, 4])),
        "signs": _set("b", BUFFER, -torch.arange(6)),
        "order": _set("b", BUFFER, torch.arange(5, -1, -1)),
        "32 bits": _set("b", BUFFER, torch.arange(6, dtype=torch.int32)),
        "8 bits": _set("b", BUFFER, torch.arange(6, dtype=torch.int8)),
        "truth values": _set("b", BUFFER, torch.ones(6, dtype=torch.bool)),
        "longer": _set("b", BUFFER, torch.arange(7)),
        "far longer": _set("b", BUFFER, torch.arange(100_000)),
        "shorter": _set("b", BUFFER, torch.arange(5)),
        "empty": _set("b", BUFFER, torch.arange(0)),
        "two dimensions": _set("b", BUFFER, torch.arange(6).view(1, 6)),
        "base shorter": _set("base", BUFFER, torch.arange(2)),
    },
)

WHOLE = [
    Case(
        "weights that are whole numbers",
        f"{str(dtype).removeprefix('torch.')} in {model}",
        MismatchError,
        (f"'{Q}'", f"/in/{model}'"),
        _set(model, Q, torch.ones(4, 4).to(dtype)),
    )
    for model in ("a", "b")
    for dtype in (
        torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
    )
]  # fmt: skip
WHOLE += cases(
    "weights that are whole numbers",
    MismatchError,
    f"'{Q}'",
    {"int8 in base": _set("base", Q, torch.ones(4, 4, dtype=torch.int8))},
)


def _depth(model: str, layers: int) -> Spoil:
    return lambda pool: pool.write(f"{model}/{WEIGHTS}", save(sound(5, layers)))


DEPTHS = [
    Case(
        "unequal depths",
        f"{layers} layers in {model}",
        MismatchError,
        (f"has {layers}", "has 2", "layers", f"/in/{model}'"),
        _depth(model, layers),
    )
    for model in ("base", "a", "b")
    for layers in (1, 3, 4, 40)
]
DEPTHS += cases(
    "unequal depths",
    MismatchError,
    ("/in/b'", "layers"),
    {
        "no layers": _depth("b", 0),
        "a layer far away": _set("b", "model.layers.999.mlp.up_proj.weight", torch.ones(8, 4)),
    },
)

CASES: list[Case] = [*NON_FINITE, *OVERFLOW, *SHAPES, *MISSING, *BUFFERS, *WHOLE, *DEPTHS]


@each(CASES)
def test_is_refused(case: Case, tmp_path: Path) -> None:
    refused(case, tmp_path)


@pytest.mark.parametrize("value", [-INF, NAN])
def test_masks_in_buffers_may_hold_infinity(value: float, tmp_path: Path) -> None:
    """A causal mask is copied bit for bit, whatever it holds."""
    pool = Pool(tmp_path / "in")
    name = "model.layers.0.self_attn.masked_bias"
    for model in ("base", "a", "b"):
        pool.set_tensors(model, {name: torch.tensor(value)})
    api.merge(pool.save_recipe(), tmp_path / "out", threads=1)
    assert torch.equal(api.open(tmp_path / "out")[name].isfinite(), torch.tensor(False))


@pytest.mark.parametrize("weight", ["1", "20000"])
def test_large_values_that_fit_are_merged(weight: str, tmp_path: Path) -> None:
    """The reverse of `outputs beyond their dtype`: 3e38 fits in float32, and so may a product."""
    pool = Pool(tmp_path / "in")
    _scaled("float32", weight, 3e38 if weight == "1" else 1e30)(pool)
    pool.set_tensors("base", {HEAD: torch.zeros(6, 4)})
    pool.swap("0.25", "0")
    api.merge(pool.save_recipe(), tmp_path / "out", threads=1)
    expected = 3e38 if weight == "1" else 2e34
    assert float(api.open(tmp_path / "out")[HEAD].view(-1)[0]) == pytest.approx(expected, rel=1e-5)
