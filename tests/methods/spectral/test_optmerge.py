"""OptMerge against the loss as its authors write it."""

from __future__ import annotations

import torch

from tests.methods.spectral.losses import kept, optimised
from tests.methods.spectral.matrices import close, deltas, merged


def test_it_takes_the_authors_steps() -> None:
    models = [0.01 * m for m in deltas(3)]
    wide = [m.double() for m in models]
    mean = sum(wide) / 3
    pairs = [(mean + kept(m - mean, 4)[0], kept(m, 4)[1]) for m in wide]
    expected = optimised(sum(wide), pairs, wide, lambda point: torch.optim.Adam(point, lr=1e-4), 60)
    found = merged("optmerge", models, steps=60, rate=1e-4)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-6)
    assert float((found - sum(models)).abs().amax()) > 1e-3


def test_one_expert_comes_back() -> None:
    (model,) = deltas(1)
    close(merged("optmerge", [model], rate=0.1), model, 1e-6)
