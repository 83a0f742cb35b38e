"""`pipeline:` in a recipe: what it means, what a plan says of it, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import cermet
from cermet import api
from cermet.core import registry
from cermet.core.errors import CermetError, MethodError, RecipeError
from cermet.core.registry import method
from cermet.engine.forecast import forecast
from cermet.engine.options import Options
from tests.cli.commands import ready
from tests.recipes.pools import llama, merged, planned, save_llama, task

TAIL = """\
base_model: $a
models:
  - {model: $b, parameters: {weight: 1}}
  - {model: $c, parameters: {weight: 0.5}}
"""


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    return [save_llama(tmp_path / name, i, layers=4) for i, name in enumerate("abc")]


def _recipe(paths: list[str], *steps: Any, own: Mapping[str, Any] | None = None) -> dict[str, Any]:
    models = [{"model": p, "parameters": dict(own or {"weight": 0.5})} for p in paths[1:]]
    return {"pipeline": list(steps), "base_model": paths[0], "models": models, "seed": 5}


def _refused(tmp_path: Path, text: str) -> str:
    with pytest.raises((RecipeError, MethodError)) as caught:
        api.plan(ready(tmp_path, text))
    return str(caught.value).removeprefix(f"{tmp_path}/")


_WRONG = {
    "unknown step": (
        "pipeline:\n  - trm: {density: 0.2}\n  - ties\n",
        "recipe.yaml:2: There is no transform or method 'trm'. Did you mean 'trim'?",
    ),
    "no merge": (
        "pipeline:\n  - trim: {density: 0.2}\n  - rescale\n",
        "recipe.yaml:3: a pipeline has one merge, but these steps are all transforms.",
    ),
    "two merges": (
        "pipeline:\n  - ties\n  - trim: {density: 1}\n  - task_arithmetic\n",
        "recipe.yaml:4: a pipeline has one merge, but 'ties' and 'task_arithmetic' are two.",
    ),
    "weights": (
        "pipeline:\n  - trim: {density: 0.2}\n  - linear\n",
        "recipe.yaml:3: 'linear' works on weights; a pipeline is made of deltas.",
    ),
    "unknown parameter": (
        "pipeline:\n  - trim: {densty: 0.2}\n  - ties\n",
        "recipe.yaml:2: 'trim' takes no 'densty' (it takes density). Did you mean 'density'?",
    ),
    "a parameter of another step": (
        "pipeline:\n  - trim: {density: 0.2, normalize: true}\n  - ties\n",
        "recipe.yaml:2: 'trim' takes no 'normalize' (it takes density).",
    ),
    "a parameter of mergekit's": (
        "pipeline:\n  - task_arithmetic: {int8_mask: true}\n",
        "recipe.yaml:2: 'task_arithmetic' takes no 'int8_mask'",
    ),
    "out of limits": (
        "pipeline:\n  - trim:\n      density: 2\n  - ties\n",
        "recipe.yaml:3: 'density' must be at least 0 and at most 1, not 2.",
    ),
    "a word that is none": (
        "pipeline:\n  - keep: {part: mlp}\n  - ties\n",
        "recipe.yaml:2: 'part' takes linear or attention or feed_forward or layers, not 'mlp'.",
    ),
    "a missing parameter": (
        "pipeline:\n  - ties\n  - trim\n",
        "recipe.yaml:3: 'trim' needs 'density' for tensor 'lm_head.weight'; give it "
        "beside the step.",
    ),
    "a filter that matches nothing": (
        "pipeline:\n  - trim: {density: [{filter: mpl, value: 1}, {value: 0.5}]}\n  - ties\n",
        "recipe.yaml:2: the filter 'mpl' matches no tensor.",
    ),
    "a window that is too wide": (
        "pipeline:\n  - della: {density: 0.9, epsilon: 0.5}\n",
        "recipe.yaml:2: 'della' on 'lm_head.weight': epsilon 0.5 at density 0.9 asks",
    ),
    "parameters of a step are no mapping": (
        "pipeline:\n  - trim: 5\n  - ties\n",
        "recipe.yaml:2: pipeline.0: a step is written as a name, or as name:",
    ),
    "a step with two names": (
        "pipeline:\n  - ties\n  - {trim: {density: 1}, rescale: {}}\n",
        "recipe.yaml:3: pipeline.1: a step is written as a name, or as name:",
    ),
    "no steps": ("pipeline: []\n", "recipe.yaml:1: pipeline: list should have at least 1 item"),
    "no list": ("pipeline: ties\n", "recipe.yaml:1: pipeline: input should be a valid list."),
    "both": (
        "merge_method: ties\npipeline: [ties]\n",
        "recipe.yaml:2: a recipe has 'merge_method' or 'pipeline', not both.",
    ),
    "neither": ("", "recipe.yaml:1: 'merge_method' is missing (or 'pipeline', with steps)."),
    "a transform as a method": (
        "merge_method: trim\n",
        "recipe.yaml:1: 'trim' is a transform; it stands in a pipeline, beside a merge.",
    ),
    "parameters for all": (
        "pipeline: [ties]\nparameters: {density: 1}\n",
        "recipe.yaml:2: the parameters of a pipeline stand beside its steps; move these there.",
    ),
    "what varies where the whole model is looked at": (
        "pipeline:\n  - ties\n  - trim_globally: {density: [0.1, 0.9]}\n",
        "takes one 'trim_globally.density' for the whole model",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", _WRONG)
def test_mistakes_name_the_line_and_what_to_do(name: str, tmp_path: Path) -> None:
    text, said = _WRONG[name]
    assert said in _refused(tmp_path, text + TAIL)


def test_what_stands_beside_a_model_speaks_to_the_steps_that_take_it(paths: list[str]) -> None:
    steps = [{"trim": {"density": 0.2}}, {"ties": {"density": 0.9}}, {"trim": {"density": 0.7}}]
    plan = planned(_recipe(paths, *steps, own={"weight": 1, "density": 0.5}))
    assert _numbers(plan, "q_proj") == {
        "trim.density": (0.5, 0.5), "ties.density": (0.5, 0.5), "trim_2.density": 0.7,
        "ties.weight": (1.0, 1.0), "ties.normalize": True, "ties.rescale": False,
        "ties.lambda": 1.0,
    }  # fmt: skip


def test_a_step_may_be_named_beside_a_model_or_a_slice(paths: list[str]) -> None:
    steps = [{"trim": {"density": 0.2}}, {"ties": {"density": 0.9}}, {"trim": {"density": 0.7}}]
    own = {"weight": 1, "trim.density": 0.5}
    found = _numbers(planned(_recipe(paths, *steps, own=own)), "q_proj")
    assert found["trim.density"] == (0.5, 0.5)
    assert found["ties.density"] == (0.9, 0.9)
    with pytest.raises(RecipeError, match=r"takes 'trim_2\.density' once for all models"):
        planned(_recipe(paths, *steps, own={"weight": 1, "trim_2.density": 0.5}))
    with pytest.raises(RecipeError, match=r"Did you mean 'trim\.density'"):
        planned(_recipe(paths, *steps, own={"weight": 1, "trim.densty": 0.5}))
    with pytest.raises(RecipeError, match="at most 1, not 5"):
        planned(_recipe(paths, *steps, own={"weight": 1, "trim.density": 5}))


def _numbers(plan: Any, part: str) -> dict[str, Any]:
    found = task(plan, f"layers.0.self_attn.{part}")
    assert found.method is not None
    return {n: found.parameters[p.argument] for n, p in found.method.parameters.items()}


def test_what_no_step_takes_for_each_model_is_refused_beside_a_model(paths: list[str]) -> None:
    steps = ["task_arithmetic", {"trim": {"density": 0.7}}]
    recipe = _recipe(paths, *steps, own={"weight": 1, "density": 0.5})
    with pytest.raises(RecipeError, match="takes 'density' once for all models"):
        planned(recipe)
    recipe = _recipe(paths, *steps, own={"weight": 1, "densty": 0.5})
    with pytest.raises(RecipeError, match="Did you mean 'density'"):
        planned(recipe)


def test_gradients_and_filters_stand_beside_a_step(paths: list[str]) -> None:
    varied = [{"filter": "mlp", "value": [0, 3]}, {"value": 1}]
    plan = planned(_recipe(paths, "task_arithmetic", {"lines": {"alpha": varied, "beta": 0}}))
    factors = {t.name: t.parameters["s1_alpha"] for t in plan.tasks}
    assert [factors[f"model.layers.{i}.mlp.up_proj.weight"] for i in range(4)] == [0, 1, 2, 3]
    assert factors["model.norm.weight"] == 1


def test_slices_have_parameters_for_the_steps(paths: list[str]) -> None:
    sources = [{"model": p, "layer_range": [0, 2]} for p in paths[:2]]
    recipe = {
        "pipeline": [{"trim": {"density": 0.2}}, {"task_arithmetic": {"weight": 1}}],
        "base_model": paths[0],
        "slices": [{"sources": sources}, {"sources": sources, "parameters": {"density": 0.6}}],
    }
    found = {t.name: t.parameters["s0_density"] for t in planned(recipe).tasks}
    assert found["model.layers.0.self_attn.q_proj.weight"] == (0.2,)
    assert found["model.layers.2.self_attn.q_proj.weight"] == (0.6,)


def test_a_plan_names_the_steps_and_counts_every_reading(paths: list[str], tmp_path: Path) -> None:
    recipe = _recipe(paths, {"trim": {"density": 0.2}}, "task_arithmetic", "rescale")
    plan = planned(recipe)
    found = forecast(plan, Options(), tmp_path)
    assert found["method"] == "trim > task_arithmetic > rescale"
    (group,) = found["groups"]
    assert (group["method"], found["passes"]) == (found["method"], 3)
    assert group["parameters"].startswith("trim: density=0.2; task_arithmetic: weight=0.5, ")
    read = sum(t.nbytes for c in plan.checkpoints for t in c.tensors.values())
    assert found["bytes_read"] == 3 * read
    unneeded = planned(_recipe(paths, {"ties": {"density": 0.2}}))  # its mass is not asked for
    assert {t.passes for t in unneeded.tasks} == {2}


_STEPS: list[Any] = [
    {"trim": {"density": 0.6}}, {"drop": {"density": 0.5}}, "rescale",
    {"ties": {"weight": 0.5, "rescale": True, "density": 0.7}},
    {"trim_globally": {"density": 0.4}}, {"lines": {"alpha": 0.5, "beta": 0.5}},
]  # fmt: skip


def _as_calls(steps: list[Any]) -> list[Any]:
    return [s if isinstance(s, str) else next(iter(s.items())) for s in steps]


def test_files_and_tensors_give_the_same_bytes(paths: list[str], tmp_path: Path) -> None:
    on_disk = merged(_recipe(paths, *_STEPS), tmp_path / "out")
    base, *experts = (llama(i, layers=4) for i in range(3))
    found = cermet.merge_tensors(_as_calls(_STEPS), base, experts, seed=5)
    assert all(torch.equal(found[name], on_disk[name]) for name in found)


def test_the_record_and_the_card_say_how(paths: list[str], tmp_path: Path) -> None:
    recipe = _recipe(paths, *_STEPS)
    merged(recipe, tmp_path / "out")
    record = json.loads((tmp_path / "out" / "cermet.json").read_text("utf-8"))
    assert record["recipe"] == recipe
    one = record["tensors"]["model.norm.weight"]
    assert one["method"] == "trim > drop > rescale > ties > trim_globally > lines"
    assert one["parameters"]["trim_globally.density"] == 0.4
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "a pipeline of these steps:\n\n1. `trim` (arXiv:2306.01708): keep the" in card
    assert "\n6. `lines` (arXiv:2410.17146): scale a delta" in card


@pytest.mark.parametrize("whole", [True, False])
def test_verify_makes_it_again(whole: bool, paths: list[str], tmp_path: Path) -> None:
    steps = _STEPS if whole else [s for s in _STEPS if "trim_globally" not in s]
    merged(_recipe(paths, *steps), tmp_path / "out")
    found = api.verify(tmp_path / "out")
    assert found.problems == []
    assert found.remade > 5


class _Stopped(Exception):
    """What the test raises in the middle of a run."""


def test_a_run_that_was_stopped_goes_on(paths: list[str], tmp_path: Path) -> None:
    recipe = _recipe(paths, *_STEPS)
    expected = merged(recipe, tmp_path / "expected")
    seen = 0

    def stop(name: str, new: int) -> None:
        nonlocal seen
        seen += 1
        if seen == 20:
            raise _Stopped

    with pytest.raises(_Stopped):
        api.merge(recipe, tmp_path / "out", threads=1, progress=stop)
    again = api.merge(recipe, tmp_path / "out", threads=2, resume=True)
    assert again.resumed_pieces > 0
    found: Mapping[str, Tensor] = api.open(tmp_path / "out")
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.fixture
def odd_transforms() -> Iterator[None]:
    """Transforms that need whole rows, or whole columns, or the number of models."""
    before = dict(registry._transforms)

    @method(kind="transform", on="deltas", source="this test", grain="row", workspace=2.0)
    def by_row(deltas: Tensor) -> Tensor:
        """Take the mean of each row from it."""
        return deltas - deltas.mean(dim=-1, keepdim=True)

    @method(kind="transform", on="deltas", source="this test", grain="column", workspace=2.0)
    def by_column(deltas: Tensor) -> Tensor:
        """Take the mean of each column from it."""
        return deltas - deltas.mean(dim=-1, keepdim=True)

    @method(kind="transform", on="deltas", source="this test", workspace=2.0)
    def by_count(deltas: Tensor, *, count: int) -> Tensor:
        """Multiply by the number of models."""
        return deltas * count

    yield
    registry._transforms.clear()
    registry._transforms.update(before)


@pytest.mark.usefixtures("odd_transforms")
def test_grains_that_share_no_cut_are_refused_at_planning(paths: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        planned(_recipe(paths, "by_row", "task_arithmetic", "by_column"))
    said = "'by_row' needs whole rows and 'by_column' whole columns, which no cut into blocks"
    assert said in str(caught.value)
    base, *experts = (llama(i) for i in range(3))
    with pytest.raises(CermetError, match="'by_row' needs whole rows"):
        cermet.merge_tensors(["by_row", ("ties", {"weight": 1}), "by_column"], base, experts)


@pytest.mark.usefixtures("odd_transforms")
@pytest.mark.parametrize("step", ["by_row", "by_column"])
def test_steps_beside_a_coarse_one_are_cut_as_it_needs(step: str) -> None:
    base, *experts = ({"w": t["model.embed_tokens.weight"]} for t in map(llama, range(3)))
    steps = [("trim", {"density": 0.5}), step, ("task_arithmetic", {"weight": 1}), "rescale"]
    whole = cermet.merge_tensors(steps, base, experts)
    zeros = {"w": torch.zeros_like(base["w"])}
    kept = [
        cermet.merge_tensors("ties", zeros, [{"w": e["w"] - base["w"]}], weight=1, density=0.5)
        for e in experts
    ]
    dim = 1 if step == "by_row" else 0
    wanted = base["w"] + sum(k["w"] - k["w"].mean(dim=dim, keepdim=True) for k in kept)
    torch.testing.assert_close(whole["w"], wanted)
    for block in (1, 50):
        assert torch.equal(cermet.merge_tensors(steps, base, experts, block=block)["w"], whole["w"])


@pytest.mark.usefixtures("odd_transforms")
def test_after_the_merge_there_is_one_model() -> None:
    base, experts = {"w": torch.zeros(2)}, [{"w": torch.ones(2)}] * 3
    merge = ("task_arithmetic", {"weight": 1})
    for steps, wanted in (([merge, "by_count"], 3.0), (["by_count", merge], 9.0)):
        assert cermet.merge_tensors(steps, base, experts)["w"].tolist() == [wanted] * 2


def test_mistakes_in_python_are_refused() -> None:
    base, *experts = (llama(i) for i in range(3))
    trim, ties = ("trim", {"density": 0.5}), ("ties", {"weight": 1})

    def said(steps: Any, **given: Any) -> str:
        with pytest.raises(MethodError) as caught:
            cermet.merge_tensors(steps, base, experts, **given)
        return str(caught.value)

    assert said([trim]).startswith("Step 1: a pipeline has one merge")
    assert said([]) == "A pipeline has at least one step."
    assert "Did you mean 'trim'?" in said(["trom", ties])
    assert said(["trim", ties]) == "'trim' needs 'density'."
    assert "'trim' takes no 'densty'" in said([("trim", {"densty": 1}), ties])
    assert "stand beside its steps; move ['weight']" in said([trim, "ties"], weight=1)
    assert "draws no random numbers" in said([trim, ties], noise={})
    assert said("trim").startswith("'trim' is a transform")
    shapes = {name: torch.zeros(2, *value.shape) for name, value in base.items()}
    twice = [("drop", {"density": 0.5}), ("drop", {"density": 0.5}), ties]
    assert "it must be [4, " in said(twice, noise=shapes)


def test_noise_of_two_steps_is_given_one_after_another() -> None:
    base, experts = {"w": torch.zeros(4)}, [{"w": torch.ones(4)}]
    noise = {"w": torch.tensor([[0.1, 0.1, 0.9, 0.9], [0.1, 0.9, 0.1, 0.9]])}
    half = ("drop", {"density": 0.5})
    steps = [half, ("task_arithmetic", {"weight": 1}), half]
    assert cermet.merge_tensors(steps, base, experts, noise=noise)["w"].tolist() == [4, 0, 0, 0]
