"""KnOTS with DARE: nothing dropped is the sum, and what is dropped is made up for on average."""

from __future__ import annotations

import torch

from cermet import merge_tensors
from tests.methods.spectral.matrices import close, deltas, merged


def test_nothing_dropped_is_the_plain_sum() -> None:
    models = deltas(3)
    close(merged("knots_dare", models, keep=1.0, normalize=False, lambda_=0.3), 0.3 * sum(models))


def test_the_mean_over_seeds_is_the_sum() -> None:
    models = deltas(2, 6, 9)
    draws = [merged("knots_dare", models, keep=0.5, normalize=False, seed=s) for s in range(300)]
    error = torch.stack(draws).mean(dim=0) - sum(models)
    assert float(error.abs().amax()) < 0.2 * float(sum(models).abs().amax())
    assert not torch.equal(draws[0], draws[1])


def test_keep_nothing_is_the_base() -> None:
    assert not merged("knots_dare", deltas(2), keep=0.0).any()


def test_the_draws_that_are_given() -> None:
    models = [{"w": m} for m in deltas(2, 4, 5)]
    noise = {"w": torch.zeros(2, 4, 5)}
    noise["w"][1] = 0.99
    zero = {"w": torch.zeros(4, 5)}
    given = {"keep": 0.5, "noise": noise, "normalize": False}
    found = merge_tensors("knots_dare", zero, models, **given)
    close(found["w"], 2 * models[0]["w"])
