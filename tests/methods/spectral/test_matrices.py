"""What all methods on matrices share: which tensors they take, and how these turn and scale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import cermet
from cermet import merge_tensors
from cermet.engine.forecast import forecast
from cermet.engine.options import Options
from tests.methods.forms import METHODS, same_bits
from tests.methods.spectral.matrices import close, deltas, merged, turned

MATRICES = [
    name
    for name, method in METHODS.items()
    if method.otherwise is not None
    and "vocabulary" in method.parameters
    and not method.needs
    and not name.startswith("knots")
]
"""Methods that average all but matrices; those of KnOTS take norms for diagonal ones."""
TURNING: dict[str, dict[str, Any]] = {
    "iso_c": {"lambda_": 0.7},
    "iso_cts": {"common": 0.6},
    "optmerge_lora": {"rate": 0.05},
    "stf": {},
    "swudi": {"time": 20.0},
    "tsv_m": {},
}
"""Methods that see singular vectors and values alone."""

SUMS = {"iso_c", "iso_cts", "optmerge_lora", "r_tsvm", "stf", "swudi", "tsv_m"}
"""Methods whose result grows with the deltas by the same factor."""


@pytest.mark.parametrize("name", TURNING)
def test_turned_deltas_give_the_turned_result(name: str) -> None:
    models = deltas(3)
    left, others, right = turned(models)
    expected = left @ merged(name, models, **TURNING[name]) @ right
    close(merged(name, others, **TURNING[name]), expected, 2e-5)


@pytest.mark.parametrize("name", ["ties", "ties_official", "wudi"])
def test_a_method_on_elements_does_not_turn(name: str) -> None:
    """Otherwise the test above would say nothing."""
    models = deltas(3)
    left, others, right = turned(models)
    given: dict[str, Any] = {"rate": 0.001} if name == "wudi" else {"density": 0.5}
    given |= {"weight": 1.0} if name == "ties" else {}
    expected = left @ merged(name, models, **given) @ right
    assert float((merged(name, others, **given) - expected).abs().amax()) > 0.001


@pytest.mark.parametrize("name", sorted(SUMS))
def test_deltas_three_times_as_large(name: str) -> None:
    models = deltas(3)
    close(merged(name, [3 * m for m in models]), 3 * merged(name, models))


@pytest.mark.parametrize("name", MATRICES)
def test_other_tensors_are_averaged(name: str) -> None:
    """Norms, biases, convolutions, embeddings and heads; their λ is that of the matrices."""
    shapes = {
        "model.embed_tokens.weight": (9, 6),
        "model.layers.0.input_layernorm.weight": (6,),
        "model.layers.0.self_attn.q_proj.weight": (6, 6),
        "model.layers.0.self_attn.q_proj.bias": (6,),
        "model.layers.0.conv1d.weight": (6, 1, 4),
        "lm_head.weight": (9, 6),
    }
    own = torch.Generator().manual_seed(0)
    base = {n: torch.randn(s, generator=own) for n, s in shapes.items()}
    experts = [{n: v + torch.randn(v.shape, generator=own) for n, v in base.items()} for _ in "abc"]
    found = merge_tensors(name, base, experts, lambda_=0.8)
    for tensor, start in base.items():
        mean = sum(e[tensor] - start for e in experts) / 3
        near = torch.allclose(found[tensor], start + 0.8 * mean, atol=1e-6)
        assert near == ("q_proj.weight" not in tensor), tensor
    tables = merge_tensors(name, base, experts, lambda_=0.8, vocabulary="spectral")
    moved = {"model.embed_tokens.weight", "lm_head.weight"}
    if METHODS[name].whole:  # the model's threshold is another one with more matrices
        moved.add("model.layers.0.self_attn.q_proj.weight")
    for tensor in shapes:
        assert torch.equal(tables[tensor], found[tensor]) == (tensor not in moved), tensor


@pytest.mark.parametrize("name", [n for n in MATRICES if not METHODS[n].whole])
def test_fused_experts_are_merged_one_by_one(name: str) -> None:
    fused = "model.layers.0.mlp.experts.gate_up_proj"
    models = [torch.stack(deltas(4, 6, 8, seed)) for seed in range(2)]
    found = merged(name, models, fused)
    each = [merged(name, [m[i] for m in models]) for i in range(4)]
    assert torch.equal(found, torch.stack(each))
    again = merge_tensors(
        name, {fused: torch.zeros_like(models[0])}, [{fused: m} for m in models],
        threads=2, block=50,
    )  # fmt: skip
    assert same_bits(again, {fused: found})


@pytest.mark.parametrize("name", MATRICES)
def test_a_matrix_that_does_not_fit_is_refused_at_planning(name: str, tmp_path: Path) -> None:
    """The vocabulary, which is averaged block by block, may be larger."""
    shapes = {
        "model.embed_tokens.weight": (40_000, 50),
        "model.layers.0.self_attn.q_proj.weight": (300, 300),
    }
    for i in range(3):
        (tmp_path / f"m{i}").mkdir()
        tensors = {n: torch.full(s, 0.1 * i) for n, s in shapes.items()}
        save_file(tensors, tmp_path / f"m{i}" / "model.safetensors")
    recipe = {
        "merge_method": name, "base_model": str(tmp_path / "m0"),
        "models": [{"model": str(tmp_path / f"m{i}")} for i in (1, 2)],
    }  # fmt: skip
    with pytest.raises(cermet.BudgetError, match=r"'model\.layers\.0\.self_attn.*90,000 elements"):
        forecast(cermet.plan(recipe), Options(memory=1_500_000, threads=1), tmp_path)
    told = forecast(cermet.plan(recipe), Options(memory=30_000_000, threads=1), tmp_path)
    assert 4 * 2 * 90_000 < told["memory"] < 30_000_000


@pytest.mark.parametrize("name", MATRICES)
def test_in_a_pipeline(name: str) -> None:
    """After a transform of elements the matrices are merged as before, and others averaged."""
    models = [{"w": m, "b": m[0].clone()} for m in deltas(2)]
    base = {"w": torch.zeros(12, 20), "b": torch.zeros(20)}
    plain = merge_tensors(name, base, models)
    found = merge_tensors([("keep", {"part": "layers"}), name], base, models)
    assert not found["w"].any()
    found = merge_tensors([("trim", {"density": 1.0}), name], base, models)
    for tensor, value in plain.items():
        close(found[tensor], value, 1e-5)


EQUAL: dict[str, dict[str, Any]] = {
    "knots_dare": {"keep": 1.0},
    "knots_dare_ties": {"keep": 1.0, "density": 0.5},
    "knots_ties": {"density": 0.5},
    "opcm": {},
    "stf": {},
    "swudi": {"time": 1e9, "density": 1.0},
}
"""Methods for which an expert that is there three times is there once. (For DRM it is but for the
copies of one entry, the last that is kept.)"""


@pytest.mark.parametrize("name", EQUAL)
def test_equal_experts_give_what_one_of_them_gives(name: str) -> None:
    """What the others make of them is in their own files."""
    (model,) = deltas(1)
    close(merged(name, [model] * 3, **EQUAL[name]), merged(name, [model], **EQUAL[name]), 2e-5)


def test_a_matrix_that_the_memory_does_not_hold_is_refused() -> None:
    models = deltas(2, 40, 30)
    with pytest.raises(cermet.BudgetError, match="Give more with --memory"):
        merged("tsv_m", models, memory=1000)
    assert merged("tsv_m", models, memory=10_000_000).shape == (40, 30)
