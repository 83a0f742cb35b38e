"""Invariants over the registry: what a tensor's result may depend on, and where it may lie."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cermet import merge_tensors
from tests.methods.forms import (
    FORMS,
    METHODS,
    Form,
    Model,
    label,
    pool,
    same_bits,
    statistics,
)

SHAPES = {"a": (6, 8), "b": (5,), "c": (2, 3, 4)}
LOCAL = [form for form in FORMS if not form.method.whole]
# The totals of EMR are numbers that it keeps beside the merged model, which does without them;
# those of DRM are over what is no matrix.
WHOLE = sorted(
    name
    for name, method in METHODS.items()
    if method.whole and name not in ("emr", "drm_h", "drm_v")
)

AVERAGES: dict[str, dict[str, Any]] = {
    "frank": {},
    "layer_swapping": {},
    "linear": {"weight": 1.0},
    "lm_cocktail": {"loss": 1.5},
    "metagpt": {},
    "passthrough": {},
    "varm": {},
    "wsm": {"schedule": "cosine"},
}
"""Averages: every entry lies between the smallest and the largest of the experts'."""

BETWEEN: dict[str, dict[str, Any]] = {
    "arcee_fusion": {},
    "led_merging": {},
    "localize_and_stitch": {"density": 0.4, "layers_only": False},
    "nearswap": {"t": 0.1},
    "ram": {},
    "sce": {"select_topk": 0.4},
    "sce_official": {},
    "shadow_ft": {},
    "ties": {"weight": 1.0, "density": 0.5},
    "ties_max": {},
    "ties_official": {},
    "ties_sv": {"slack": 0.2},
}
"""Choices among the experts and the base: every entry lies between those of all of them."""


@pytest.mark.parametrize("form", LOCAL, ids=label)
def test_a_tensor_does_not_depend_on_the_others(form: Form) -> None:
    """A part of a model is merged as it is merged in the whole, draws and all."""
    base, experts = pool(form.experts, SHAPES)
    whole = form.merge(base, experts, seed=4)
    for name in SHAPES:
        part = [{name: model[name]} for model in (base, *experts)]
        assert same_bits(form.merge(part[0], part[1:], seed=4), {name: whole[name]})


@pytest.mark.parametrize("name", WHOLE)
def test_a_method_over_the_whole_model_does(name: str) -> None:
    """Beside a tensor that moved a hundred times as far, or is alone: not the same."""
    most = METHODS[name].models[1]
    base, experts = pool(most or 3, {"small": (30, 20), "large": (30, 20)})
    for i, expert in enumerate(experts):
        expert["large"] = base["large"] + (100 if i else 1) * (expert["large"] - base["large"])
    given = {"density": 0.3, "layers_only": False, "slack": 0.1}
    own = {k: v for k, v in given.items() if k in METHODS[name].parameters}
    together = merge_tensors(name, base, experts, **own)["small"]
    alone = [{"small": model["small"]} for model in (base, *experts)]
    assert not torch.equal(merge_tensors(name, alone[0], alone[1:], **own)["small"], together)


@settings(max_examples=20)
@given(name=st.sampled_from(sorted({**AVERAGES, **BETWEEN})), seed=st.integers(0, 999))
def test_averages_and_choices_stay_between_their_models(name: str, seed: int) -> None:
    method = METHODS[name]
    least, most = method.models
    base, experts = pool(most or max(3, least), SHAPES, seed=seed)
    given = None if method.base == "none" else base
    needs = {"needs": statistics(method, base, experts)} if method.needs else {}
    found = merge_tensors(name, given, experts, **{**AVERAGES, **BETWEEN}[name], **needs)
    models = experts if name in AVERAGES else [base, *experts]
    for tensor, value in found.items():
        every = torch.stack([model[tensor] for model in models])
        room = 1e-5 * every.abs().amax(dim=0)
        assert bool((value >= every.amin(dim=0) - room).all())
        assert bool((value <= every.amax(dim=0) + room).all())


ELECTING: dict[str, dict[str, Any]] = {
    "consensus_ties": {"density": 0.5},
    "emr": {},
    "rht": {"density": 0.5},
    "sce": {"select_topk": 0.4},
    "sce_official": {"select_topk": 0.4},
    "tall_mask_ties": {"density": 0.5},
    "ties": {"weight": 1.0, "density": 0.5},
    "ties_max": {"density": 0.5},
    "ties_official": {"density": 0.5},
    "ties_sv": {"density": 0.5, "slack": 0.05},
}
"""Methods that elect a sign, with a rule of their own where a sum is zero."""

ASSEMBLIES = ["emr", "localize_and_stitch", "tall_mask", "tall_mask_ties"]
"""Methods that keep a mask of each expert: what an expert is restored to is made with it."""


def _generic(seed: int = 0) -> tuple[Model, list[Model]]:
    """Deltas that are nowhere zero and cancel nowhere, from a base of zeros."""
    own = torch.Generator().manual_seed(seed)
    base = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    return base, [{n: torch.randn(v.shape, generator=own) for n, v in base.items()} for _ in "abc"]


def _times(models: list[Model], factor: float) -> list[Model]:
    return [{name: value * factor for name, value in model.items()} for model in models]


@pytest.mark.parametrize("name", ELECTING)
def test_an_election_of_generic_deltas_is_odd(name: str) -> None:
    """The rule for zero sums is the only one that tells plus from minus."""
    base, experts = _generic()
    one = merge_tensors(name, base, experts, **ELECTING[name])
    other = merge_tensors(name, base, _times(experts, -1.0), **ELECTING[name])
    for tensor, value in one.items():
        torch.testing.assert_close(other[tensor], -value, rtol=0, atol=0)


@pytest.mark.parametrize("name", ASSEMBLIES)
@pytest.mark.parametrize("factor", [-1.0, 4.0])
def test_masks_do_not_see_the_sign_or_the_size_of_all_deltas(name: str, factor: float) -> None:
    base, experts = _generic()
    own = {"layers_only": False, "density": 0.4} if name == "localize_and_stitch" else {}
    one = merge_tensors(name, base, experts, task=1, **own)
    other = merge_tensors(name, base, _times(experts, factor), task=1, **own)
    for tensor, value in one.items():
        torch.testing.assert_close(other[tensor], value * factor, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", [*ASSEMBLIES, "twin_merging"])
def test_an_expert_among_experts_that_have_not_moved_is_the_base(name: str) -> None:
    base, _ = pool(0, SHAPES)
    own = {"layers_only": False} if name == "localize_and_stitch" else {}
    found = merge_tensors(name, base, [dict(base)] * 3, task=2, **own)
    assert same_bits(found, base)


@pytest.mark.parametrize("name", [*ASSEMBLIES, "twin_merging"])
def test_the_order_of_the_experts_does_not_change_what_one_is_restored_to(name: str) -> None:
    base, experts = _generic()
    own = {"layers_only": False, "density": 0.4} if name == "localize_and_stitch" else {}
    one = merge_tensors(name, base, experts, task=0, **own)
    other = merge_tensors(name, base, experts[::-1], task=2, **own)
    for tensor, value in one.items():
        torch.testing.assert_close(other[tensor], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["consensus_ta", "consensus_ties"])
def test_entries_kept_by_consensus_are_nested(name: str) -> None:
    """More experts that must agree keep fewer entries, and one more than there are keeps none."""
    base, experts = _generic()
    kept = []
    for agree in range(5):
        found = merge_tensors(name, base, experts, agree=agree, lambda_=1.0)
        kept.append(torch.cat([value.flatten() != 0 for value in found.values()]))
    for fewer, more in pairwise(kept):
        assert bool((more <= fewer).all())
    assert int(kept[0].sum()) > int(kept[2].sum()) > int(kept[4].sum()) == 0


@pytest.mark.parametrize("name", ["led_merging", "lines", "rht", "shadow_ft"])
def test_weight_0_is_the_base(name: str) -> None:
    """Where no lambda does it for all."""
    base, experts = pool(3, SHAPES)
    own = {"beta": 0.5} if name == "lines" else {}
    method = METHODS[name]
    assert "lambda" not in method.parameters
    needs = {"needs": statistics(method, base, experts)} if method.needs else {}
    assert same_bits(merge_tensors(name, base, experts, weight=0.0, **own, **needs), base)
