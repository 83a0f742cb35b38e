"""The loop that trains every pool: steps by hand, what is refused, what a course stands for."""

from __future__ import annotations

import json
import math
from hashlib import sha256
from random import Random

import pytest
import torch
from torch import Tensor

from cermet.core.errors import NonFiniteError
from cermet.zoo.catalogue import Wanted, find_entry
from cermet.zoo.train import Course, alike, train


def _weights() -> tuple[Tensor, Tensor]:
    return torch.tensor([[3.0, -4.0]], requires_grad=True), torch.tensor([2.0], requires_grad=True)


def _half_square(weights: tuple[Tensor, Tensor], batch: float) -> Tensor:
    """Its gradient is the weights times the batch."""
    matrix, vector = weights
    return batch * (matrix.square().sum() + vector.square().sum()) / 2


def _adam(x: float, grads: list[float], rates: list[float], decay: float, second: float) -> float:
    """AdamW by its formula, with the pull of 0.25 to where it began after each step."""
    start, first, square = x, 0.0, 0.0
    for step, (grad, rate) in enumerate(zip(grads, rates, strict=True), start=1):
        first, square = 0.9 * first + 0.1 * grad, second * square + (1 - second) * grad**2
        x -= rate * decay * x
        x -= rate * first / (1 - 0.9**step) / (math.sqrt(square / (1 - second**step)) + 1e-8)
        x += 0.25 * (start - x)
    return x


def test_steps_are_those_of_the_formula() -> None:
    """Clipped gradients, a rate that goes up and down, decay of matrices alone, and the pull."""
    weights = _weights()
    course = Course(
        batch=1, rate=0.1, warm_up=0.5, decay=0.2, pull=0.25, clip=1.0, second=0.98, epochs=1
    )
    norms: list[float] = []
    grads: list[list[float]] = []

    def loss(batch: float) -> Tensor:
        values = [*weights[0][0].tolist(), *weights[1].tolist()]
        norms.append(max(1.0, batch * math.hypot(*values)))
        grads.append([batch * value / norms[-1] for value in values])
        return _half_square(weights, batch)

    heard: list[tuple[int, int]] = []
    batches = [1.0, 0.01, 2.0, 1.0]  # the second is not clipped
    train(weights, batches, loss, course, lambda *step: heard.append(step), spared=weights[1:])
    assert heard == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [norm == 1.0 for norm in norms] == [False, True, False, False]
    rates = [0.05, 0.1, 0.1, 0.05]
    for place, (begin, decay) in enumerate(((3.0, 0.2), (-4.0, 0.2), (2.0, 0.0))):
        wanted = _adam(begin, [g[place] for g in grads], rates, decay, 0.98)
        found = [*weights[0][0].tolist(), *weights[1].tolist()][place]
        assert found == pytest.approx(wanted, abs=1e-5)


def test_a_loss_that_is_no_number_stops_at_once() -> None:
    weights = _weights()
    heard: list[int] = []
    with pytest.raises(NonFiniteError, match=r"the loss is nan in step 2 of 3.*another seed"):
        train(
            weights, [1.0, math.nan, 1.0], lambda batch: _half_square(weights, batch),
            Course(1, 0.1), lambda done, total: heard.append(done),
        )  # fmt: skip
    assert heard == [1]
    assert all(weight.isfinite().all() for weight in weights)


def test_a_weight_that_is_no_number_is_refused_at_the_end() -> None:
    """The last step can run away behind a loss that was a number."""
    weight = torch.zeros(1, requires_grad=True)
    with pytest.raises(NonFiniteError, match="a weight is no finite number after 1 steps"):
        train([weight], [0], lambda batch: weight.sqrt().sum() * 0, Course(1, 0.1))


def test_batches_hold_every_row_once_and_like_lengths() -> None:
    rows = ["x" * (i % 10) for i in range(50)]
    found = alike(rows, 4, 20, Random(0), len)
    assert sorted(row for batch in found for row in batch) == sorted(rows)
    assert [len(batch) for batch in found] == [4] * 12 + [2]
    for start in range(0, 10, 5):
        lengths = [len(row) for batch in found[start : start + 5] for row in batch]
        assert lengths == sorted(lengths)
    assert found != alike(rows, 4, 20, Random(1), len)


def test_a_course_stands_for_what_is_set() -> None:
    assert Course(4, 0.1, steps=7, clip=1.0).plain() == {
        "batch": 4, "rate": 0.1, "steps": 7, "warm_up": 0.1, "decay": 0.01, "clip": 1.0,
    }  # fmt: skip
    assert Course(4, 0.1, epochs=2, pull=0.0).plain()["pull"] == 0.0


FROZEN = {
    "demo": "ee53d0c77c669beb",
    "sight": "cb440e955d18ec28",
    "strings": "5bdee423b12b47da",
}
"""What the steps of seed 0 stand for in pools that users have built. Whoever changes it makes them
train again, and says so in the changelog."""


@pytest.mark.parametrize("name", FROZEN)
def test_pools_that_were_built_are_found_again(name: str) -> None:
    steps = [step for step in find_entry(name).draw(Wanted()).steps if step.asked]
    stands = [[step.name, step.stands, step.after] for step in steps]
    assert sha256(json.dumps(stands, sort_keys=True).encode()).hexdigest()[:16] == FROZEN[name]
