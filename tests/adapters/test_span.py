"""Methods that are equivariant see adapters in their span, and make of them what they make whole.

The ranks that a method keeps count by the shape of the whole: in `attn` each delta has a higher
rank than tsv_m keeps of it, in `mlp` a lower one.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import cermet
from cermet.engine.deltas import Deltas
from cermet.maths.factors import Factors, product, spanned
from tests.methods.forms import FORMS, Form, label

_PREFIX = "base_model.model."
_MODULES = {
    "model.layers.0.self_attn.q_proj": (12, 16, 5),
    "model.layers.0.mlp.up_proj": (40, 24, 3),
    "model.layers.1.mlp.down_proj": (24, 40, 2),
}
_LACKING = "model.layers.1.mlp.down_proj"  # of the last adapter
SPANNED = [form for form in FORMS if "equivariant" in form.method.properties]


def _pool(count: int) -> list[tuple[dict[str, Tensor], dict[str, Any]]]:
    own = torch.Generator().manual_seed(3)
    found = []
    for i in range(count):
        tensors = {}
        for module, (outputs, inputs, rank) in _MODULES.items():
            if module == _LACKING and i == count - 1:
                continue
            falling = 1.0 / torch.arange(1, rank + 1)
            b = torch.randn(outputs, rank, generator=own) * falling
            a = torch.randn(rank, inputs, generator=own)
            tensors[f"{_PREFIX}{module}.lora_A.weight"] = a
            tensors[f"{_PREFIX}{module}.lora_B.weight"] = b
        ranks = {m: r for m, (_, _, r) in _MODULES.items()}
        config = {"peft_type": "LORA", "r": 4, "lora_alpha": 6 + i, "rank_pattern": ranks}
        found.append((tensors, config))
    return found


def _deltas(tensors: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    found = {}
    for module, (outputs, inputs, _) in _MODULES.items():
        b = tensors.get(f"{_PREFIX}{module}.lora_B.weight", torch.zeros(outputs, 1))
        a = tensors.get(f"{_PREFIX}{module}.lora_A.weight", torch.zeros(1, inputs))
        own = config.get("rank_pattern", {}).get(module, config["r"])
        scale = config.get("alpha_pattern", {}).get(module, config["lora_alpha"]) / own
        found[f"{module}.weight"] = (scale * (b.double() @ a.double())).float()
    return found


def _near(one: Tensor, other: Tensor) -> None:
    distance = torch.linalg.norm((one - other).double())
    assert float(distance) <= 1e-5 * float(torch.linalg.norm(other.double()))


@pytest.mark.parametrize("form", SPANNED, ids=label)
def test_the_span_gives_what_the_whole_deltas_give(form: Form) -> None:
    pool = _pool(form.experts)
    whole = [_deltas(*one) for one in pool]
    zero = {name: torch.zeros_like(delta) for name, delta in whole[0].items()}
    expected = cermet.merge_tensors(form.method.name, zero, whole, **form.parameters)
    rank = 5 * form.experts
    found = _deltas(*cermet.merge_adapters(form.method.name, pool, rank=rank, **form.parameters))
    for name, delta in expected.items():
        assert float(delta.abs().amax()) > 0.0
        _near(found[name], delta)


def test_no_delta_is_formed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a method that does not declare it asks for one."""

    def formed(self: Deltas, name: str, start: int, stop: int) -> Tensor:
        raise AssertionError(name)

    monkeypatch.setattr(Deltas, "block", formed)
    cermet.merge_adapters("tsv_m", _pool(3))
    with pytest.raises(AssertionError, match="weight"):
        cermet.merge_adapters("knots_ties", _pool(3))


@pytest.mark.parametrize("method", ["tsv_m", "opcm"])
def test_any_number_of_threads_gives_the_same_bytes(method: str) -> None:
    one, _ = cermet.merge_adapters(method, _pool(3))
    two, _ = cermet.merge_adapters(method, _pool(3), threads=2)
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def test_the_memory_is_that_of_the_span() -> None:
    """The deltas of this module would take 400 MB to be truncated."""
    tensors = {
        f"{_PREFIX}x.lora_A.weight": torch.ones(2, 4096),
        f"{_PREFIX}x.lora_B.weight": torch.ones(4096, 2),
    }
    pool = [(tensors, {"peft_type": "LORA", "r": 2, "lora_alpha": 2})] * 2
    merged, _ = cermet.merge_adapters("iso_c", pool, memory=4_000_000)
    assert float(merged[f"{_PREFIX}x.lora_B.weight"].abs().amax()) > 0.0
    with pytest.raises(cermet.BudgetError, match="'x' take 403 MB at once"):
        cermet.merge_adapters("ties", pool, memory=4_000_000, weight=1.0)


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_a_rank_above_the_sides_and_deltas_of_zero(scale: float) -> None:
    own = torch.Generator().manual_seed(1)
    b, a = torch.randn(3, 7, generator=own) * scale, torch.randn(7, 5, generator=own)
    tensors = {f"{_PREFIX}x.lora_A.weight": a, f"{_PREFIX}x.lora_B.weight": b}
    pool = [(tensors, {"peft_type": "LORA", "r": 7, "lora_alpha": 7})]
    found, config = cermet.merge_adapters("tsv_m", pool)
    assert config["r"] == 7
    merged = found[f"{_PREFIX}x.lora_B.weight"] @ found[f"{_PREFIX}x.lora_A.weight"]
    torch.testing.assert_close(merged, b @ a)


def test_cores_keep_the_products_of_the_deltas() -> None:
    own = torch.Generator().manual_seed(2)
    ranks = (1, 4, 2)
    held = [
        Factors(torch.randn(r, 9, generator=own), torch.randn(5, r, generator=own), 0.5 * r)
        for r in ranks
    ]
    made = spanned([held[0], None, *held[1:]])
    assert made.cores.shape == (4, 5, 7)
    assert not made.cores[1].any()
    for core, factors in zip(made.cores[[0, 2, 3]], held, strict=True):
        back = (made.outer @ core.double() @ made.inner.t()).float()
        torch.testing.assert_close(back, product(factors), rtol=1e-5, atol=1e-5)
