"""Methods that are pipelines of others: each is its steps, bit for bit, and nothing beside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from cermet import MethodError, merge_tensors
from cermet.core import registry
from cermet.core.composition import Given, composition
from cermet.core.registry import PerModel
from cermet.methods.elementwise.task_arithmetic import task_arithmetic
from cermet.methods.transforms.rescale import rescale
from cermet.methods.transforms.trim import trim
from tests.methods.forms import METHODS, pool, same_bits

NETWORK = {
    "model.embed_tokens.weight": (5, 4),
    "model.layers.0.self_attn.q_proj.weight": (4, 4),
    "model.layers.1.self_attn.q_proj.weight": (4, 4),
    "model.layers.1.input_layernorm.weight": (4,),
}
WEIGHT = (0.7, -0.4, 1.3)
SAME: Mapping[str, tuple[dict[str, Any], list[tuple[str, dict[str, Any]]]]] = {
    "dare_official": (
        {"weight": WEIGHT, "density": 0.4, "lambda_": 0.9},
        [("drop", {"density": 0.4}), ("task_arithmetic", {"weight": WEIGHT, "lambda_": 0.9})],
    ),
    "lines": (
        {"weight": WEIGHT, "beta": 0.5},
        [("task_arithmetic", {"weight": WEIGHT}), ("lines", {"alpha": 1 / 3, "beta": 0.5})],
    ),
    "shadow_ft": (
        {"weight": WEIGHT},
        [("keep", {"part": "linear"}), ("task_arithmetic", {"weight": WEIGHT})],
    ),
}


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test declares is forgotten again."""
    monkeypatch.setattr(registry, "_registered", dict(registry.all_methods()))


def test_every_composition_is_here() -> None:
    assert SAME.keys() == {name for name, method in METHODS.items() if method.composed}


@pytest.mark.parametrize("name", SAME)
def test_a_composition_is_its_steps(name: str) -> None:
    own, steps = SAME[name]
    assert METHODS[name].composed == tuple(step for step, _ in steps)
    base, experts = pool(3, NETWORK)
    wanted = merge_tensors(steps, base, experts, seed=3)
    assert same_bits(merge_tensors(name, base, experts, seed=3, **own), wanted)
    assert same_bits(merge_tensors(name, base, experts, seed=3, block=3, **own), wanted)


@pytest.mark.usefixtures("registered")
def test_rounds_and_fits_of_the_steps_are_the_methods() -> None:
    """Alone, and as one step of another pipeline."""

    @composition(trim, rescale, task_arithmetic, source="here")
    def trimmed(*, share: PerModel = (0.5,), weight: PerModel = (1.0,)) -> Given:
        """Keep the largest entries at their whole size."""
        return {"density": share}, {}, {"weight": weight}

    base, experts = pool(3, NETWORK)
    steps: list[tuple[str, dict[str, Any]]] = [
        ("trim", {"density": 0.3}), ("rescale", {}), ("task_arithmetic", {"weight": WEIGHT}),
    ]  # fmt: skip
    wanted = merge_tensors(steps, base, experts)
    assert same_bits(merge_tensors("trimmed", base, experts, share=0.3, weight=WEIGHT), wanted)
    last = ("trim", {"density": 0.5})
    inner = ("trimmed", {"share": 0.3, "weight": WEIGHT})
    found = merge_tensors([inner, last], base, experts)
    assert same_bits(found, merge_tensors([*steps, last], base, experts))


@pytest.mark.usefixtures("registered")
def test_a_step_that_is_given_what_it_does_not_take_is_told() -> None:
    @composition(trim, task_arithmetic, source="here")
    def wrong(*, share: float = 0.5) -> Given:
        """Give the first step too little."""
        return {}, {"weight": (share,)}

    base, experts = pool(1, NETWORK)
    with pytest.raises(MethodError, match="'wrong' gives its step 'trim'"):
        merge_tensors("wrong", base, experts)


def test_a_function_that_is_no_method_is_no_step() -> None:
    with pytest.raises(MethodError, match="'_values' is no method"):
        composition(_values, source="here")(_nothing)


def _values() -> None:
    """Not decorated."""


def _nothing() -> Given:
    """Nothing."""
    return ()
