"""Invariants over the registry: what a tensor's result may depend on, and where it may lie."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cermet import merge_tensors
from tests.methods.forms import FORMS, METHODS, Form, label, pool, same_bits, statistics

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
