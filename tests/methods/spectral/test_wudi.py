"""WUDI-Merging against the loss as its authors write it."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from cermet import merge_tensors
from tests.methods.spectral.losses import optimised
from tests.methods.spectral.matrices import close, deltas, merged


def test_it_takes_the_authors_steps() -> None:
    models = [0.01 * m for m in deltas(3)]
    wide = [m.double() for m in models]
    pairs = [(m, m) for m in wide]
    expected = optimised(sum(wide), pairs, wide, lambda point: torch.optim.Adam(point, lr=1e-4), 60)
    found = merged("wudi", models, steps=60, rate=1e-4)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-6)
    assert float((found - sum(models)).abs().amax()) > 1e-3


def test_one_expert_comes_back_and_no_steps_are_the_sum() -> None:
    models = deltas(3)
    assert torch.equal(merged("wudi", models[:1], rate=0.1), models[0])
    close(merged("wudi", models, steps=0), sum(models))


@pytest.mark.parametrize("name", ["wudi", "swudi", "optmerge", "optmerge_lora", "doge_ta"])
def test_a_matrix_stored_the_other_way_round(name: str) -> None:
    """GPT-2 stores [inputs, outputs]; the loss is about inputs, so the result is turned too."""
    models = deltas(2, 8, 8)
    names = "h.0.mlp.c_fc.weight", "h.0.mlp.c_fc.bias", "h.0.mlp.c_proj.weight"
    shapes = {names[0]: (8, 32), names[1]: (32,), names[2]: (8, 8)}
    given = {"rate": 1e-3} if name != "swudi" else {"time": 50.0}
    if name == "doge_ta":
        given["density"] = 1.0  # a share of all matrices, of which one side has more

    def model(matrix: torch.Tensor) -> dict[str, torch.Tensor]:
        return {**{n: torch.zeros(s) for n, s in shapes.items()}, names[0]: matrix}

    wide = [torch.cat([m, m.t(), m, -m], dim=1) for m in models]
    base = model(torch.zeros(8, 32))
    found = merge_tensors(name, base, [model(m) for m in wide], **given)[names[0]]
    plain = merged(name, [m.t().contiguous() for m in wide], **given)
    close(found, plain.t(), 1e-4)
    assert float((found - merged(name, wide, **given)).abs().amax()) > 1e-4


def test_others_stay_at_the_base() -> None:
    base = {"norm.weight": torch.ones(4), "w": torch.zeros(4, 4)}
    experts = [{"norm.weight": torch.full((4,), 2.0), "w": m} for m in deltas(2, 4, 4)]
    found = merge_tensors("wudi", base, experts, others="base")
    assert torch.equal(found["norm.weight"], base["norm.weight"])
    assert float(merge_tensors("wudi", base, experts)["norm.weight"][0]) == 2.0


def test_small_steps_lower_the_loss_at_every_one() -> None:
    models = [m.double() for m in deltas(3)]

    def loss(point: torch.Tensor) -> float:
        parts = [((point - m) @ m.t()).square().sum() / m.square().sum() for m in models]
        return float(torch.stack(parts).sum())

    path = [loss(merged("wudi", deltas(3), steps=n, rate=1e-3).double()) for n in range(0, 60, 6)]
    assert all(after < before for before, after in pairwise(path))
