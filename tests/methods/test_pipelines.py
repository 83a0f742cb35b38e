"""The contract of transforms, over their registry, and pipelines against their steps one by one.

A transform is held, before a merge and after one, to what a method is held to: a cut never
changes a bit, declared properties hold, the measured peak is within the declared workspace.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import cermet.engine.tensors as engine_tensors
from cermet import merge_tensors
from cermet.anatomy import survey
from cermet.core.compose import compose
from cermet.core.registry import Parameter, all_transforms, find_step
from cermet.core.types import Role
from cermet.engine.geometry import LEAF
from cermet.engine.memory import block_bytes
from tests.methods.forms import WEIGHTS, Model, pool, same_bits
from tests.methods.test_workspace import SLACK, Gauge

Step = tuple[str, Mapping[str, Any]]
Pipeline = Sequence[Step]

TRANSFORMS = all_transforms()
NETWORK = {
    "model.embed_tokens.weight": (5, 4),
    "model.layers.0.self_attn.q_proj.weight": (4, 4),
    "model.layers.0.mlp.up_proj.weight": (7, 4),
    "model.layers.1.self_attn.q_proj.weight": (4, 4),
    "model.layers.1.mlp.up_proj.weight": (7, 4),
    "model.layers.1.input_layernorm.weight": (4,),
    "model.norm.weight": (4,),
}
_MERGE = ("task_arithmetic", {"weight": WEIGHTS[:3]})


def _value(parameter: Parameter) -> Any:
    if parameter.choices:
        return parameter.choices[0]
    return 0.4


def _step(name: str) -> Step:
    return name, {p.name: _value(p) for p in TRANSFORMS[name].parameters.values() if p.required}


BEFORE = {f"{name} before": [_step(name), _MERGE] for name in TRANSFORMS}
AFTER = {f"{name} after": [_MERGE, _step(name)] for name in TRANSFORMS}
MIXED: Mapping[str, Pipeline] = {
    "many steps": [
        _step("trim"), _step("drop"), _step("rescale"),
        ("ties", {"weight": WEIGHTS[:3], "density": 0.5, "rescale": True}),
        _step("trim_globally"), _step("drop"), _step("rescale"), _step("lines"),
    ],
    "rows": [_step("trim"), ("della", {"weight": 0.5, "density": 0.5}), _step("rescale")],
    "gram": [_step("drop"), ("model_stock", {}), _step("trim")],
    "whole model": [_step("trim_globally"), ("ties_official", {}), _step("trim_globally")],
    "rows of vectors": [_step("trim"), ("model_stock", {"filter_wise": True}), _step("drop")],
}  # fmt: skip
EVERY: Mapping[str, Pipeline] = {**BEFORE, **AFTER, **MIXED}

_every_pipeline = pytest.mark.parametrize("steps", EVERY.values(), ids=list(EVERY))


@_every_pipeline
def test_cut_equals_whole(steps: Pipeline) -> None:
    base, experts = pool(3, ties=True)
    whole = merge_tensors(steps, base, experts, seed=5)
    for block in (1, 7, 30):
        assert same_bits(merge_tensors(steps, base, experts, seed=5, block=block), whole)


@_every_pipeline
def test_cut_equals_whole_beyond_a_leaf(steps: Pipeline) -> None:
    base, experts = pool(3, {"w": (3, 30_011)}, ties=True)
    whole = merge_tensors(steps, base, experts, seed=5)
    for cut in ({"block": 9_973}, {"block": 65_537, "threads": 2}):
        assert same_bits(merge_tensors(steps, base, experts, seed=5, **cut), whole)


@_every_pipeline
@pytest.mark.parametrize("count", [2, 9])
def test_peak_is_within_the_workspace_of_the_steps(
    steps: Pipeline, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    gauge = Gauge()
    monkeypatch.setattr(engine_tensors, "executor_for", lambda threads: gauge)
    base, experts = pool(count, {"w": (LEAF // 2048, 2048)}, dtype=torch.bfloat16)
    weighted = [
        (name, {k: WEIGHTS[:count] if k == "weight" else v for k, v in own.items()})
        for name, own in steps
    ]
    merge_tensors(weighted, base, experts, block=LEAF)
    method = compose([find_step(name) for name, _ in steps])
    assert gauge.peak <= block_bytes(method, count) * LEAF * (1 + SLACK)


def _scaled(steps: Pipeline, experts: Sequence[Model], factor: float) -> tuple[Model, Model]:
    base = {n: torch.zeros_like(v) for n, v in experts[0].items()}
    others = [{n: v * factor for n, v in e.items()} for e in experts]
    return merge_tensors(steps, base, experts), merge_tensors(steps, base, others)


@pytest.mark.parametrize("steps", [*BEFORE.values(), *AFTER.values()], ids=[*BEFORE, *AFTER])
@pytest.mark.parametrize(("name", "factor"), [("homogeneous", 4.0), ("odd", -1.0)])
def test_declared_properties_hold(steps: Pipeline, name: str, factor: float) -> None:
    (transform,) = (TRANSFORMS[step] for step, _ in steps if step in TRANSFORMS)
    assert name in transform.properties
    one, other = _scaled(steps, pool(3, NETWORK)[1], factor)
    assert all(torch.equal(value * factor, other[n]) for n, value in one.items())


@pytest.mark.parametrize("name", [n for n in TRANSFORMS if n != "drop"])
def test_the_order_of_the_models_does_not_matter(name: str) -> None:
    assert "permutation" in TRANSFORMS[name].properties
    base, experts = pool(3, NETWORK)
    one = merge_tensors([_step(name), _MERGE], base, experts)
    moved = ("task_arithmetic", {"weight": WEIGHTS[:3][::-1]})
    torch.testing.assert_close(merge_tensors([_step(name), moved], base, experts[::-1]), one)


def test_a_random_step_draws_as_its_method_and_a_second_one_otherwise() -> None:
    base, experts = pool(2, {"w": (40, 30)})
    merge = ("task_arithmetic", {"weight": 1})
    once = merge_tensors([_step("drop"), merge], base, experts)
    alone = merge_tensors("dare_official", base, experts, density=0.4)
    torch.testing.assert_close(once, alone)
    twice = merge_tensors([_step("drop"), _step("drop"), merge], base, experts)
    kept = [int((m["w"] != base["w"]).sum()) for m in (once, twice)]
    assert kept[1] < 0.7 * kept[0]


# -- against the steps one by one ---------------------------------------------------------------


def _largest(deltas: Sequence[Model], density: float) -> list[Model]:
    found = []
    for delta in deltas:
        own = {}
        for name, value in delta.items():
            flat = value.flatten()
            count = max(1, int(density * len(flat)))
            order = flat.abs().sort(descending=True, stable=True).indices
            own[name] = torch.zeros_like(flat).index_copy(0, order[:count], flat[order[:count]])
            own[name] = own[name].view_as(value)
        found.append(own)
    return found


def _largest_of_all(deltas: Sequence[Model], density: float) -> list[Model]:
    found = []
    for delta in deltas:
        sizes = torch.cat([v.flatten().abs() for v in delta.values()]).sort(descending=True).values
        least = sizes[min(len(sizes), int(density * len(sizes)) + 1) - 1]
        found.append({n: torch.where(v.abs() >= least, v, 0.0) for n, v in delta.items()})
    return found


def _inside(name: str, part: str) -> bool:
    role = survey(NETWORK, {}).places[name].role
    roles = {"attention": {Role.Q}, "feed_forward": {Role.UP}, "linear": {Role.Q, Role.UP}}
    return "layers" in name if part == "layers" else role in roles[part]


def _applied(
    step: Step, deltas: list[Model], first: list[Model], draws: Mapping[str, Tensor]
) -> list[Model]:
    """A transform as its page says, without a block or a round."""
    name, own = step
    if name == "trim":
        return _largest(deltas, own["density"])
    if name == "trim_globally":
        return _largest_of_all(deltas, own["density"])
    if name == "drop":
        share = own["density"]
        return [
            {n: (draws[n][i] < share) * v / share for n, v in d.items()}
            for i, d in enumerate(deltas)
        ]
    if name == "keep":
        return [{n: v if _inside(n, own["part"]) else v * 0 for n, v in d.items()} for d in deltas]
    if name == "lines":
        depth = {n: 1.0 if ".layers.1." in n else 0.0 for n in NETWORK}
        factors = {n: own["alpha"] + own["beta"] * depth[n] for n in NETWORK}
        return [{n: v * factors[n] for n, v in d.items()} for d in deltas]
    assert name == "rescale"
    found = []
    for delta, was in zip(deltas, first, strict=True):
        sizes = {n: (was[n].abs().sum(), v.abs().sum()) for n, v in delta.items()}
        factor = {n: b / a if min(a, b) >= 1e-7 else 1.0 for n, (b, a) in sizes.items()}
        found.append({n: v * factor[n] for n, v in delta.items()})
    return found


def _one_by_one(
    steps: Pipeline, base: Model, experts: Sequence[Model], noise: Mapping[str, Tensor]
) -> Model:
    """Every step on whole tensors in memory, one after another."""
    deltas = [{n: e[n] - base[n] for n in base} for e in experts]
    first, used = deltas, 0
    for name, own in steps:
        if name in TRANSFORMS:
            draws = {n: v[used : used + len(deltas)] for n, v in noise.items()}
            used += len(deltas) if name == "drop" else 0
            deltas = _applied((name, own), deltas, first, draws)
        else:
            zeros = {n: torch.zeros_like(v) for n, v in base.items()}
            first = deltas = [merge_tensors(name, zeros, deltas, **own)]
    return {n: base[n] + deltas[0][n] for n in base}


_SHARES = st.sampled_from([0.3, 0.5, 0.8, 1.0])
_PARTS = st.sampled_from(["linear", "attention", "feed_forward", "layers"])
_TRANSFORM = st.one_of(
    st.tuples(
        st.sampled_from(["trim", "trim_globally", "drop"]),
        st.fixed_dictionaries({"density": _SHARES}),
    ),
    st.just(("rescale", {})),
    st.tuples(st.just("lines"), st.fixed_dictionaries({"alpha": _SHARES, "beta": _SHARES})),
    st.tuples(st.just("keep"), st.fixed_dictionaries({"part": _PARTS})),
)
_MERGES = st.sampled_from(
    [
        ("task_arithmetic", {"weight": 0.7}),
        ("ties", {"weight": 1.0, "density": 0.6, "rescale": True}),
        ("ties_official", {"density": 0.6}),
        ("consensus_ta", {}),
        ("model_stock", {}),
        ("metagpt", {}),
        ("breadcrumbs_official", {"density": 0.5}),
    ]
)


@given(
    before=st.lists(_TRANSFORM, max_size=2),
    merge=_MERGES,
    after=st.lists(_TRANSFORM, max_size=2),
    seed=st.integers(0, 99),
    block=st.sampled_from([None, 3]),
)
def test_a_pipeline_is_its_steps_one_after_another(
    before: list[Step], merge: Step, after: list[Step], seed: int, block: int | None
) -> None:
    steps = [*before, merge, *after]
    base, experts = pool(3, NETWORK, seed=seed)
    own = torch.Generator().manual_seed(seed)
    count = 3 * sum(n == "drop" for n, _ in before) + sum(n == "drop" for n, _ in after)
    noise = {n: torch.rand(count, *shape, generator=own) for n, shape in NETWORK.items()}
    given_noise = {"noise": noise} if count else {}
    found = merge_tensors(steps, base, experts, block=block, **given_noise)
    wanted = _one_by_one(steps, base, experts, noise)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5)
