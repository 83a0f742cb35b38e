"""DOGE-TA against its loss as it is written, its subspace, and its trimming over the model."""

from __future__ import annotations

import torch
from torch import Tensor

from cermet import merge_tensors
from tests.methods.spectral.matrices import close, deltas, merged


def _naive(models: list[Tensor], eta: float, subspace: int, steps: int, rate: float) -> Tensor:
    """Σ λᵢ(τᵢ + Δ), by autograd, full decompositions and torch's Adam."""
    wide = [m.double() for m in models]
    shares = [eta / float(m.norm()) for m in wide]
    side = min(wide[0].shape)
    own = [torch.linalg.svd(m).U[:, : side // len(wide)] for m in wide]
    basis = torch.linalg.svd(torch.cat(own, dim=1)).U[:, : side // subspace]
    shift = torch.nn.Parameter(torch.zeros_like(wide[0]))
    optimizer = torch.optim.Adam([shift], lr=rate)
    for _ in range(steps):
        total = sum(s * (m + shift) for s, m in zip(shares, wide, strict=True))
        loss = sum(((m * (m - total)).sum(dim=1) ** 2).sum() for m in wide)
        (slope,) = torch.autograd.grad(loss, shift)
        shift.grad = slope - basis @ (basis.T @ slope)
        optimizer.step()
    found = sum(s * (m + shift.detach()) for s, m in zip(shares, wide, strict=True))
    return found.float()


def test_it_takes_the_authors_steps() -> None:
    models = deltas(3)
    known = {"eta": 0.3, "steps": 50, "rate": 1e-3, "subspace": 2}
    found = merged("doge_ta", models, density=1.0, **known)
    close(found, _naive(models, **known), 1e-4)
    assert float((found - merged("doge_ta", models, density=1.0, eta=0.3, steps=0)).norm()) > 0.01


def test_without_steps_every_expert_adds_its_direction() -> None:
    models = [m * size for m, size in zip(deltas(3), (1.0, 0.01, 30.0), strict=True)]
    expected = sum(0.14 * m / m.norm() for m in models)
    close(merged("doge_ta", models, eta=0.07, lambda_=2.0, density=1.0, steps=0), expected)


def test_the_largest_entries_of_the_whole_model_are_kept() -> None:
    """A matrix of small deltas beside one of large ones loses all of its own."""
    base = {n: torch.zeros(4, 5) for n in ("a", "b")} | {"norm.weight": torch.ones(4)}
    own = torch.Generator().manual_seed(0)
    large = [torch.rand(4, 5, generator=own) + 1 for _ in range(2)]
    experts = [{"a": 0.01 * m, "b": m, "norm.weight": torch.full((4,), 9.0)} for m in large]
    found = merge_tensors("doge_ta", base, experts, density=0.25, others="base", steps=5)
    assert not found["a"].any()
    shares = [0.07 / m.norm() for m in large]
    kept = [torch.topk(m.flatten(), 11).values[-1] for m in large]  # one more than the share
    added = [(m >= k) * s for m, k, s in zip(large, kept, shares, strict=True)]
    assert torch.equal(found["b"] == 0, sum(added) == 0)
    assert torch.equal(found["norm.weight"], base["norm.weight"])


def test_no_correction_where_nothing_is_missing() -> None:
    """One expert whose share is 1: its loss is 0 already, and it comes back."""
    (model,) = deltas(1)
    found = merged("doge_ta", [model], eta=float(model.norm()), density=1.0, rate=0.1)
    close(found, model)
