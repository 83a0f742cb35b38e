"""SWUDI: the flow on the loss of WUDI-Merging, solved."""

from __future__ import annotations

import torch

from tests.methods.spectral.matrices import close, deltas, merged


def test_it_is_the_flow() -> None:
    """Small steps of Θ' = D − ΘC in float64."""
    models = [m.double() for m in deltas(3)]
    shares = [1 / m.square().sum() for m in models]
    spread = sum(s * m.t() @ m for s, m in zip(shares, models, strict=True))
    pull = sum(s * m @ m.t() @ m for s, m in zip(shares, models, strict=True))
    point, step = sum(models), 0.005
    for _ in range(2000):
        middle = point + 0.5 * step * (pull - point @ spread)
        point = point + step * (pull - middle @ spread)
    close(merged("swudi", deltas(3), time=10.0, density=1.0), point.float())


def test_in_the_end_it_is_the_minimum() -> None:
    """D C⁺, where the experts' inputs leave no direction out."""
    models = [m.double() for m in deltas(4, 30, 20)]
    shares = [1 / m.square().sum() for m in models]
    spread = sum(s * m.t() @ m for s, m in zip(shares, models, strict=True))
    pull = sum(s * m @ m.t() @ m for s, m in zip(shares, models, strict=True))
    expected = (pull @ torch.linalg.inv(spread)).float()
    close(merged("swudi", [m.float() for m in models], time=1e7, density=1.0), expected, 1e-4)


def test_one_expert_comes_back_and_no_time_is_the_sum() -> None:
    models = deltas(3)
    close(merged("swudi", models[:1]), models[0], 1e-6)
    close(merged("swudi", models, time=0.0), sum(models), 1e-6)
    close(merged("swudi", models, density=0.0), sum(models), 1e-6)


def test_inputs_that_no_expert_has_moved_stay() -> None:
    models = deltas(2)
    for model in models:
        model[:, 15:] = 0.0
    assert not merged("swudi", models)[:, 15:].any()
