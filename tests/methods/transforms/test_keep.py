from __future__ import annotations

import pytest
import torch

from cermet import merge_tensors
from tests.methods.forms import WEIGHTS, pool, same_bits
from tests.methods.test_pipelines import NETWORK


def test_the_linear_part_and_task_arithmetic_are_shadow_ft() -> None:
    base, experts = pool(3, NETWORK)
    own = {"weight": WEIGHTS[:3]}
    steps = [("keep", {"part": "linear"}), ("task_arithmetic", own)]
    found = merge_tensors(steps, base, experts)
    assert same_bits(found, merge_tensors("shadow_ft", base, experts, **own))


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("attention", ("q_proj",)),
        ("feed_forward", ("up_proj",)),
        ("linear", ("q_proj", "up_proj")),
        ("layers", (".layers.",)),
    ],
)
def test_every_part_is_kept_and_the_rest_is_the_base(part: str, words: tuple[str, ...]) -> None:
    base, experts = pool(1, NETWORK)
    steps = [("task_arithmetic", {"weight": 1}), ("keep", {"part": part})]
    plain = merge_tensors("task_arithmetic", base, experts, weight=1)
    for name, value in merge_tensors(steps, base, experts).items():
        kept = any(word in name for word in words)
        assert torch.equal(value, plain[name] if kept else base[name])
