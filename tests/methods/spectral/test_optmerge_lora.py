"""OptMerge for adapters against the loss as its authors write it, step by step."""

from __future__ import annotations

import pytest
import torch

from tests.maths.spectra import with_values
from tests.methods.spectral.losses import kept, optimised
from tests.methods.spectral.matrices import close, deltas, merged


@pytest.mark.parametrize("rate", [1e-4, 0.05])
def test_it_takes_the_authors_steps(rate: float) -> None:
    models = deltas(3)
    wide = [m.double() for m in models]
    pairs = [kept(m, 4) for m in wide]
    expected = optimised(
        sum(wide) / 3, pairs, wide, lambda p: torch.optim.SGD(p, lr=rate, momentum=0.9), 40
    )
    found = merged("optmerge_lora", models, steps=40, rate=rate)
    close(found, expected.float(), 1e-6)


def test_one_expert_and_equal_ones_come_back() -> None:
    (model,) = deltas(1)
    close(merged("optmerge_lora", [model], rate=0.1), model, 1e-6)
    low = with_values(12, 20, torch.tensor([3.0, 2.0, 1.0, *[0.0] * 9]))
    close(merged("optmerge_lora", [low] * 3, rate=0.1), low, 1e-6)
