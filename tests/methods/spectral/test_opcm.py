"""OPCM: order, projections, and a length for the whole model."""

from __future__ import annotations

import pytest
import torch

from cermet import merge_tensors
from tests.maths.spectra import with_values
from tests.methods.spectral.matrices import close, deltas, merged, turned


def _factor(models: list[torch.Tensor], total: torch.Tensor) -> float:
    return float(sum(m.norm() for m in models) / len(models) / total.norm())


@pytest.mark.parametrize("diagonal", [True, False])
def test_it_is_what_the_authors_do(diagonal: bool) -> None:
    """Expert by expert, with full decompositions and a length after each."""
    models, alpha = [m.double() for m in deltas(4)], 0.4
    now, before, norms = models[0], 1.0, [models[0].norm()]
    for delta in models[1:]:
        left, values, right = torch.linalg.svd(now)
        most = int((values.cumsum(0) / values.sum() <= alpha).sum())
        inside = left.t() @ delta @ right.t()
        if diagonal:
            inside.diagonal().zero_()
        inside[:most, :most] = 0.0
        step = before * now + left @ inside @ right
        norms.append(delta.norm())
        mean = sum(norms) / len(norms)
        before = float(step.norm() / mean)
        now = step / before
    found = merged("opcm", deltas(4), alpha=alpha, diagonal=diagonal)
    close(found, now.float())


def test_what_an_expert_adds_is_orthogonal_to_what_was_there() -> None:
    models = deltas(2)
    found = merged("opcm", models)
    share = float((found * models[0]).sum() / models[0].square().sum())
    added = found - share * models[0]
    # D = τ₁ + the projected τ₂, times a factor: the part along τ₁ is τ₁ itself
    assert float((added * models[0]).sum()) == pytest.approx(0.0, abs=1e-5)
    left, _, right = torch.linalg.svd(models[0].double(), full_matrices=False)
    along = (left * (added.double() @ right.t())).sum(dim=0)
    assert float(along.abs().amax()) < 1e-5


def test_one_expert_comes_back_and_order_matters() -> None:
    models = deltas(2)
    assert torch.equal(merged("opcm", models[:1]), models[0])
    difference = merged("opcm", models) - merged("opcm", models[::-1])
    assert float(difference.abs().amax()) > 0.01


def test_turned_deltas_give_the_turned_result() -> None:
    models = deltas(3)
    left, others, right = turned(models)
    close(merged("opcm", others), left @ merged("opcm", models) @ right, 5e-5)


def test_the_length_is_the_mean_over_the_whole_model() -> None:
    own = torch.Generator().manual_seed(0)
    models = [{"w": m, "b": torch.randn(30, generator=own)} for m in deltas(3)]
    zero = {"w": torch.zeros(12, 20), "b": torch.zeros(30)}
    found = merge_tensors("opcm", zero, models)
    lengths = [torch.cat([v.flatten() for v in m.values()]).norm() for m in (*models, found)]
    assert float(lengths[-1]) == pytest.approx(float(sum(lengths[:-1]) / 3), rel=1e-6)


def test_alpha_one_leaves_what_is_there_alone() -> None:
    """An expert in the same space adds nothing, whatever it does there."""
    values = torch.where(torch.arange(12) < 3, 1.0, 0.0)
    first = with_values(12, 20, values)
    left, _, right = torch.linalg.svd(first)
    second = left[:, :3] @ torch.randn(3, 3, generator=torch.manual_seed(0)) @ right[:3]
    found = merged("opcm", [first, second], alpha=1.0)
    close(found, first * _factor([first, second], first), 1e-4)
