from __future__ import annotations

import pytest

from cermet import merge_tensors
from tests.methods.forms import WEIGHTS, pool, same_bits


@pytest.mark.parametrize("density", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("normalize", [True, False])
def test_before_ties_of_density_one_it_is_ties(density: float, normalize: bool) -> None:
    base, experts = pool(3, ties=True)
    own = {"weight": WEIGHTS[:3], "normalize": normalize}
    found = merge_tensors([("trim", {"density": density}), ("ties", own)], base, experts)
    assert same_bits(found, merge_tensors("ties", base, experts, density=density, **own))


def test_before_task_arithmetic_it_is_breadcrumbs_without_outliers() -> None:
    base, experts = pool(3, ties=True)
    own = {"weight": WEIGHTS[:3], "normalize": True}
    trim = ("trim", {"density": [0.2, 0.4, 0.9]})
    found = merge_tensors([trim, ("task_arithmetic", own)], base, experts)
    other = merge_tensors("breadcrumbs", base, experts, density=[0.2, 0.4, 0.9], gamma=0, **own)
    large = [name for name, value in base.items() if value.numel() > 10]
    assert same_bits({n: found[n] for n in large}, {n: other[n] for n in large})
