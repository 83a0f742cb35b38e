"""The lattice of methods: where one reduces to another, both give the same numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from cermet import merge_tensors
from cermet.core.registry import Method
from tests.methods.forms import METHODS, Model, pool, statistics

SHAPES = {"matrix": (9, 14), "vector": (17,), "cube": (2, 3, 4)}
WEIGHTS = (0.7, 0.4, 1.3)
TASK_ARITHMETIC = ["dare_linear", "della_linear", "breadcrumbs"]
ELECTING = ["ties", "dare_ties", "della", "breadcrumbs_ties"]


def _merged(method: str, base: Model | None, experts: list[Model], **parameters: Any) -> Model:
    return merge_tensors(method, base, experts, **parameters)


def _needs(method: Method, base: Model, experts: list[Model]) -> dict[str, Any]:
    """The statistics of a method, as an argument, if it takes any."""
    return {"needs": statistics(method, base, experts)} if method.needs else {}


def _same(one: Model, other: Model, tolerance: float = 2e-6) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=tolerance, atol=tolerance)


def _mean(models: list[Model], weights: tuple[float, ...]) -> Model:
    def mean(name: str) -> Tensor:
        total = sum(w * m[name].double() for w, m in zip(weights, models, strict=True))
        return (total / sum(weights)).float()

    return {name: mean(name) for name in models[0]}


def _agreeing() -> tuple[Model, list[Model]]:
    """Experts whose deltas have one sign everywhere, and are nowhere zero."""
    base, experts = pool(3, SHAPES)
    for expert in experts:
        for name, value in expert.items():
            expert[name] = base[name] + (value - base[name]).abs() + 0.01
    return base, experts


@pytest.mark.parametrize("method", TASK_ARITHMETIC)
def test_density_1_is_task_arithmetic(method: str) -> None:
    base, experts = pool(3, SHAPES)
    reference = _merged("task_arithmetic", base, experts, weight=WEIGHTS, **{"lambda": 0.8})
    _same(_merged(method, base, experts, weight=WEIGHTS, **{"lambda": 0.8}), reference, 0)


@pytest.mark.parametrize("normalize", [False, True])
def test_density_1_leaves_the_election(normalize: bool) -> None:
    """TIES, DARE-TIES, DELLA and breadcrumbs-TIES differ in how they sparsify, and only there."""
    base, experts = pool(3, SHAPES)
    first, *others = (
        _merged(method, base, experts, weight=WEIGHTS, normalize=normalize) for method in ELECTING
    )
    for other in others:
        _same(other, first, 0)


@pytest.mark.parametrize("method", ELECTING)
def test_agreeing_deltas_give_the_weighted_mean(method: str) -> None:
    base, experts = _agreeing()
    found = _merged(method, base, experts, weight=WEIGHTS, normalize=True)
    _same(found, _mean(experts, WEIGHTS))


@pytest.mark.parametrize("method", ELECTING)
def test_agreeing_deltas_without_normalize_are_task_arithmetic(method: str) -> None:
    base, experts = _agreeing()
    found = _merged(method, base, experts, weight=WEIGHTS, normalize=False)
    _same(found, _merged("task_arithmetic", base, experts, weight=WEIGHTS))


def test_linear_is_task_arithmetic_from_any_base() -> None:
    base, experts = pool(3, SHAPES)
    found = _merged("linear", None, experts, weight=WEIGHTS)
    _same(found, _merged("task_arithmetic", base, experts, weight=WEIGHTS, normalize=True))


def test_breadcrumbs_without_outliers_trims_as_ties_does() -> None:
    base, experts = pool(3, SHAPES)
    given: dict[str, Any] = {"weight": WEIGHTS, "density": 0.4}
    crumbs = _merged("breadcrumbs_ties", base, experts, gamma=0, **given)
    _same(crumbs, _merged("ties", base, experts, normalize=False, **given), 0)


@pytest.mark.parametrize("rescale", [False, True])
def test_della_without_a_window_is_dare(rescale: bool) -> None:
    base, experts = pool(3, SHAPES)
    given: dict[str, Any] = {"weight": WEIGHTS, "density": 0.4, "rescale": rescale, "seed": 3}
    flat = _merged("della_linear", base, experts, epsilon=0, **given)
    _same(flat, _merged("dare_linear", base, experts, **given), 0)


def test_ramplus_without_strength_is_ram() -> None:
    base, experts = pool(3, SHAPES)
    _same(_merged("ramplus_tl", base, experts, r=0), _merged("ram", base, experts), 0)


def test_ram_of_deltas_that_do_not_overlap_is_task_arithmetic() -> None:
    base, experts = pool(3, SHAPES)
    for i, expert in enumerate(experts):
        for name, value in expert.items():
            place = torch.arange(value.numel()).reshape(value.shape) % 3
            expert[name] = torch.where(place == i, value, base[name])
    found = _merged("ram", base, experts)
    _same(found, _merged("task_arithmetic", base, experts, weight=1))


@pytest.mark.parametrize(("t", "end"), [(0.0, 0), (1.0, 1)])
def test_the_ends_of_slerp(t: float, end: int) -> None:
    base, (other,) = pool(1, SHAPES)
    _same(_merged("slerp", base, [other], t=t), (base, other)[end], 1e-7)


def test_slerp_turned_round() -> None:
    base, (other,) = pool(1, SHAPES)
    found = _merged("slerp", base, [other], t=0.3)
    _same(found, _merged("slerp", other, [base], t=0.7))


def test_nuslerp_without_base_is_slerp() -> None:
    """Of tensors that are neither parallel nor opposed; the share is that of the weights."""
    base, (other,) = pool(1, SHAPES)
    slerp = _merged("slerp", base, [other], t=0.25)
    _same(_merged("nuslerp", None, [base, other], weight=(0.9, 0.3)), slerp)


def test_nuslerp_from_a_base_of_zeros_is_nuslerp_without() -> None:
    base, experts = pool(2, SHAPES)
    zeros = {name: torch.zeros_like(value) for name, value in base.items()}
    found = _merged("nuslerp", zeros, experts, weight=(0.9, 0.3))
    _same(found, _merged("nuslerp", None, experts, weight=(0.9, 0.3)), 0)


@pytest.mark.parametrize("across", [False, True])
def test_nuslerp_by_vector_is_nuslerp_of_each(across: bool) -> None:
    """Row by row, or with `nuslerp_row_wise` column by column."""
    _, experts = pool(2, {"w": (4, 6)})
    found = _merged(
        "nuslerp", None, experts, weight=(0.9, 0.3), nuslerp_flatten=False, nuslerp_row_wise=across
    )["w"]
    for i in range(6 if across else 4):
        vectors = [{"v": (m["w"].t() if across else m["w"])[i]} for m in experts]
        alone = _merged("nuslerp", None, vectors, weight=(0.9, 0.3))
        _same({"v": (found.t() if across else found)[i]}, alone)


def test_model_stock_by_row_is_model_stock_of_each_row() -> None:
    base, experts = pool(3, {"w": (4, 6)})
    found = _merged("model_stock", base, experts, filter_wise=True)["w"]
    for i in range(4):
        rows = [{"v": m["w"][i]} for m in (base, *experts)]
        _same({"v": found[i]}, _merged("model_stock", rows[0], rows[1:]))


@pytest.mark.parametrize("method", ["karcher", "multislerp"])
def test_two_models_half_way_are_slerp(method: str) -> None:
    """On vectors of one length, which the directional mean needs too."""
    _, models = pool(2, {"v": (12,)})
    models = [{"v": m["v"] / m["v"].norm() * 3} for m in models]
    weight = {} if method == "karcher" else {"weight": 1}
    found = _merged(method, None, models, **weight)
    _same(found, _merged("slerp", models[0], [models[1]], t=0.5), 1e-5)


NEUTRAL: Mapping[str, Any] = {
    "weight": 1.0, "lambda": 1.0, "density": 1.0, "epsilon": 0.0, "gamma": 0.0, "t": 1.0,
    "alpha": 1.0, "beta": 0.0, "loss": 1.0, "agree": 1, "layers_only": False, "keep": 1.0,
}  # fmt: skip


def _neutral(method: Method) -> dict[str, Any]:
    """Parameters under which a method should change nothing about one expert."""
    return {name: NEUTRAL[name] for name in method.parameters if name in NEUTRAL}


ONE = [m for m in METHODS.values() if m.models[0] == 1]
# Elements below a threshold stay at the base, in shadow_ft whole tensors; PCB clamps; ISO gives all
# directions of a matrix one length, DOGE all deltas.
EXCEPT = {
    "arcee_fusion",
    "pcb_merging",
    "pcb_merging_es",
    "shadow_ft",
    "iso_c",
    "iso_cts",
    "doge_ta",
}


@pytest.mark.parametrize("method", [m for m in ONE if m.name not in EXCEPT], ids=lambda m: m.name)
def test_one_expert_alone_gives_that_expert(method: Method) -> None:
    base, experts = pool(1, SHAPES)
    given = None if method.base == "none" else base
    needs = _needs(method, base, experts)
    found = merge_tensors(method.name, given, experts, **_neutral(method), **needs)
    _same(found, experts[0])


def test_the_exception_to_that() -> None:
    """Arcee fusion keeps of one expert what is important, so not all of it."""
    base, experts = pool(1, SHAPES)
    found = merge_tensors("arcee_fusion", base, experts)
    assert not torch.equal(found["matrix"], experts[0]["matrix"])


SEVERAL = [m for m in METHODS.values() if m.models[1] != 1]
SUMS = {"task_arithmetic", "dare_linear", "dare_ties", "della_linear", "breadcrumbs"} | {
    "breadcrumbs_ties", "dare_official", "dare_magnitude", "lines"
}  # fmt: skip
# Sums with one factor for all.
FACTOR = {"breadcrumbs_official", "consensus_ta", "consensus_ties", "twin_merging"}
# In widen, columns count up to twice; led_merging leaves at the base what two experts elect; the
# merged model of TALL-masks is a sum without a factor, there to be masked. TSV-M, the WUDI family
# and OPCM share the directions of a matrix out, or project each expert away from the others.
EQUAL_EXCEPT = (EXCEPT - {"arcee_fusion"}) | {
    "widen", "led_merging", "tall_mask", "tall_mask_ties",
    "tsv_m", "r_tsvm", "wudi", "swudi", "optmerge", "opcm",
}  # fmt: skip


@pytest.mark.parametrize(
    "method", [m for m in SEVERAL if m.name not in EQUAL_EXCEPT], ids=lambda m: m.name
)
def test_equal_experts_give_that_expert(method: Method) -> None:
    """Methods that add the deltas up do so when the weights add up to one."""
    count = max(2, method.models[0])
    base, experts = pool(1, SHAPES)
    given = None if method.base == "none" else base
    parameters = _neutral(method)
    if method.name in SUMS | FACTOR:
        parameters["weight" if method.name in SUMS else "lambda"] = 1 / count
    needs = _needs(method, base, experts * count)
    found = merge_tensors(method.name, given, experts * count, **parameters, **needs)
    _same(found, experts[0], 1e-5 if method.needs else 2e-6)


@pytest.mark.parametrize("name", sorted(SUMS))
def test_sums_overshoot_where_weights_do(name: str) -> None:
    """Two equal experts at weight 1 go twice as far from the base."""
    base, experts = pool(1, SHAPES)
    found = merge_tensors(name, base, experts * 2, **_neutral(METHODS[name]))
    twice = {n: base[n] + 2 * (v - base[n]) for n, v in experts[0].items()}
    _same(found, twice)


@pytest.mark.parametrize("name", [m for m in METHODS if "lambda" in METHODS[m].parameters])
def test_lambda_0_is_the_base(name: str) -> None:
    base, experts = pool(3, SHAPES)
    given = {"weight": 1} if "weight" in METHODS[name].parameters else {}
    _same(merge_tensors(name, base, experts, **given, **{"lambda": 0}), base, 0)


def test_sce_of_one_expert_that_moved_is_that_expert() -> None:
    """Its energy is all the energy there is."""
    base, experts = pool(1, SHAPES)
    _same(_merged("sce", base, [experts[0], base]), experts[0])


def test_nearswap_at_its_ends() -> None:
    base, (other,) = pool(1, SHAPES)
    _same(_merged("nearswap", base, [other], t=0), base, 0)
    _same(_merged("nearswap", base, [other], t=100), other)


def test_passthrough_copies_bits() -> None:
    _, (model,) = pool(1, SHAPES, dtype=torch.bfloat16)
    _same(_merged("passthrough", None, [model]), model, 0)
    _same(_merged("passthrough", None, [model], scale=1), model, 0)
