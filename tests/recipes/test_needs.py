"""Statistics in recipes: read beside the models, recorded, checked, and refused by line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import cermet
from cermet import api
from cermet.core import registry
from cermet.core.errors import CermetError, NonFiniteError, OutputError, RecipeError
from cermet.core.registry import Need, PerModel
from tests.recipes.pools import llama, merged, planned, save_llama, write_recipe
from tests.reliability.runs import interrupted

Pool = dict[str, str]

_RECIPE = """\
merge_method: led_merging
base_model: $base
models:
  - model: $a
    parameters: {weight: 0.5}
    needs:
      score: $score_a
  - model: $b
    needs: {score: $score_b}
needs:
  base_score: $shared
parameters: {density: 0.6}
"""


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    """A base, two experts, and a statistics file of each and of the base."""
    found = {name: save_llama(tmp_path / name, i) for i, name in enumerate(("base", "a", "b"))}
    for seed, name in enumerate(("shared", "score_a", "score_b"), start=5):
        path = tmp_path / f"{name}.safetensors"
        save_file({n: t.abs() for n, t in llama(seed).items()}, path)
        found[name] = str(path)
    return found


def _recipe(pool: Pool, **changes: Any) -> dict[str, Any]:
    models = [{"model": pool[x], "needs": {"score": pool[f"score_{x}"]}} for x in "ab"]
    return {
        "merge_method": "led_merging",
        "base_model": pool["base"],
        "models": models,
        "needs": {"base_score": pool["shared"]},
        "parameters": {"density": 0.6},
        **changes,
    }


def _held(path: str) -> dict[str, Tensor]:
    return {n: t.clone() for n, t in cermet.open(path).items()}


def _in_memory(pool: Pool, **more: Any) -> dict[str, Tensor]:
    needs = {
        "score": [load_file(pool["score_a"]), load_file(pool["score_b"])],
        "base_score": load_file(pool["shared"]),
    }
    return cermet.merge_tensors(
        "led_merging", _held(pool["base"]), [_held(pool["a"]), _held(pool["b"])], density=0.6,
        needs=needs, **more,
    )  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"block": 7}], ids=["whole", "cut"])
def test_files_give_what_tensors_in_memory_give(
    pool: Pool, tmp_path: Path, options: dict[str, Any]
) -> None:
    found = merged(_recipe(pool), tmp_path / "out", **options)
    expected = _in_memory(pool)
    assert all(torch.equal(found[n], t) for n, t in expected.items())
    assert not torch.equal(found["lm_head.weight"], _held(pool["base"])["lm_head.weight"])


def test_one_file_for_all_experts_or_one_for_each(pool: Pool, tmp_path: Path) -> None:
    """A statistic of each expert is looked for beside the model, then in the recipe."""
    own = _recipe(pool)
    for model in own["models"]:
        model["needs"] = {**model["needs"], "base_score": pool["shared"]}
    del own["needs"]
    one, other = merged(own, tmp_path / "own"), merged(_recipe(pool), tmp_path / "shared")
    assert all(torch.equal(one[n], t) for n, t in other.items())


def test_slices_take_the_statistics_of_the_layers_they_take(pool: Pool, tmp_path: Path) -> None:
    whole = merged(_recipe(pool), tmp_path / "whole")
    sources = [{"model": pool["base"], "layer_range": [1, 2]}]
    sources += [{**m, "layer_range": [1, 2]} for m in _recipe(pool)["models"]]
    sliced = _recipe(pool, slices=[{"sources": sources}])
    del sliced["models"]
    found = merged(sliced, tmp_path / "sliced")
    name = "self_attn.q_proj.weight"
    assert torch.equal(found[f"model.layers.0.{name}"], whole[f"model.layers.1.{name}"])


def test_the_plan_counts_them(pool: Pool) -> None:
    plan = planned(_recipe(pool))
    assert plan.statistics == (pool["score_a"], pool["score_b"], pool["shared"])
    size = sum(t.numel() * 4 for t in llama().values())
    assert plan.bytes_read() == 2 * 7 * size  # two passes; base, two models, two scores of each


def test_the_record_and_verify_know_them(pool: Pool, tmp_path: Path) -> None:
    api.merge(_recipe(pool), tmp_path / "out")
    record = json.loads((tmp_path / "out" / "cermet.json").read_text("utf-8"))
    assert [m["name"] for m in record["models"]] == [pool["a"], pool["b"], pool["base"]]
    assert [s["name"] for s in record["statistics"]] == list(planned(_recipe(pool)).statistics)
    sources = record["tensors"]["lm_head.weight"]["sources"]
    assert [s["model"] for s in sources] == [0, 1, 2, 3, 4, 5, 5]
    assert all(s["digest"] for s in sources)
    assert api.verify(tmp_path / "out").problems == []
    _change(Path(pool["score_b"]))
    problems = api.verify(tmp_path / "out").problems
    assert any("score_b.safetensors' has changed since the merge" in p for p in problems)


def _change(path: Path) -> None:
    save_file({n: t + 0.5 for n, t in load_file(path).items()}, path)


def test_a_run_does_not_go_on_with_other_statistics(pool: Pool, tmp_path: Path) -> None:
    interrupted(_recipe(pool), tmp_path / "out", 2)
    _change(Path(pool["score_b"]))
    with pytest.raises(OutputError, match="its inputs have changed since"):
        api.merge(_recipe(pool), tmp_path / "out", resume=True)


@pytest.mark.parametrize(("value", "cut"), [("nan", 1_000), ("inf", 7), ("-inf", 7)])
def test_non_finite_statistics_are_refused_by_name(
    pool: Pool, tmp_path: Path, value: str, cut: int
) -> None:
    tensors = load_file(pool["score_b"])
    tensors["model.norm.weight"][11] = float(value)
    save_file(tensors, pool["score_b"])
    with pytest.raises(NonFiniteError) as caught:
        api.merge(_recipe(pool), tmp_path / "out", block=cut)
    place = f"of the statistics '{pool['score_b']}' holds {value} at element 11."
    advice = "A merge of it would be useless; make them again."
    assert str(caught.value) == f"Tensor 'model.norm.weight' {place} {advice}"
    assert not (tmp_path / "out").exists()


_Case = tuple[str, str, str]
_CASES: dict[str, _Case] = {
    "a statistic that is missing": (
        "    needs: {score: $score_b}\n",
        "",
        "recipe.yaml:8: 'led_merging' needs the statistic 'score' (importance of the expert's "
        "weights on its own task) for",
    ),
    "a statistic that is missing for all": (
        "needs:\n  base_score: $shared\n",
        "",
        "recipe.yaml:4: 'led_merging' needs the statistic 'base_score'",
    ),
    "a file that is not there": (
        "      score: $score_a",
        "      score: nowhere/a.safetensors",
        "recipe.yaml:7: the statistics 'nowhere/a.safetensors' cannot be read: There is no file "
        "'nowhere/a.safetensors'.",
    ),
    "a name like another": (
        "{score: $score_b}",
        "{scores: $score_b}",
        "recipe.yaml:9: 'led_merging' takes no statistic 'scores' (it takes score, base_score). "
        "Did you mean 'score'?",
    ),
    "a statistic of another method": (
        "  base_score: $shared",
        "  base_score: $shared\n  fisher: $shared",
        "recipe.yaml:12: 'led_merging' takes no statistic 'fisher'",
    ),
    "a method that needs none": (
        "merge_method: led_merging",
        "merge_method: pcb_merging",
        "recipe.yaml:11: 'pcb_merging' needs no statistics, so no 'base_score'.",
    ),
    "statistics of the base": (
        "models:\n",
        "models:\n  - {model: $base, needs: {score: $shared}}\n",
        "recipe.yaml:4: '$base' is the base, which is not merged",
    ),
    "no path": (
        "      score: $score_a",
        "      score: 3",
        "recipe.yaml:7: models.0.needs.score: input should be a valid string",
    ),
    "no mapping": (
        "    needs: {score: $score_b}",
        "    needs: $score_b",
        "recipe.yaml:9: models.1.needs: input should be a valid dictionary",
    ),
    "a file with fewer tensors": (
        "  base_score: $shared",
        "  base_score: $fewer",
        "recipe.yaml:11: tensor 'lm_head.weight' is missing in the statistics '$fewer'; "
        "'base_score' must hold numbers [40, 16] for it, like the model.",
    ),
    "a tensor of another shape": (
        "  base_score: $shared",
        "  base_score: $other",
        "recipe.yaml:11: tensor 'model.norm.weight' is F32 [3] in the statistics '$other'; "
        "'base_score' must hold numbers [16] for it, like the model.",
    ),
    "a tensor of truth values": (
        "  base_score: $shared",
        "  base_score: $truth",
        "recipe.yaml:11: tensor 'model.norm.weight' is BOOL [16] in the statistics",
    ),
}  # fmt: skip


@pytest.fixture
def wrong(pool: Pool, tmp_path: Path) -> Pool:
    """The pool with statistics that do not fit."""
    right = load_file(pool["shared"])
    changed = {
        "fewer": {n: t for n, t in right.items() if n != "lm_head.weight"},
        "other": {**right, "model.norm.weight": torch.ones(3)},
        "truth": {**right, "model.norm.weight": torch.ones(16, dtype=torch.bool)},
    }
    for name, tensors in changed.items():
        save_file(tensors, tmp_path / f"{name}.safetensors")
    return {**pool, **{name: str(tmp_path / f"{name}.safetensors") for name in changed}}


@pytest.mark.parametrize("case", _CASES)
def test_refused_at_planning(case: str, wrong: Pool, tmp_path: Path) -> None:
    old, new, words = _CASES[case]
    assert old in _RECIPE
    names = dict(sorted(wrong.items(), key=lambda item: -len(item[0])))
    path = write_recipe(tmp_path, _RECIPE.replace(old, new), **names)
    for name, value in names.items():
        words = words.replace(f"${name}", value)
    with pytest.raises(CermetError) as caught:
        api.plan(path)
    assert words in str(caught.value)
    assert isinstance(caught.value, RecipeError)
    assert "\n" not in str(caught.value)


def test_what_varies_is_refused_with_its_line(tmp_path: Path) -> None:
    names = {name: save_llama(tmp_path / name, i) for i, name in enumerate("abc")}
    text = (
        "merge_method: ties_official\nbase_model: $a\nmodels:\n  - {model: $b}\n"
        "  - model: $c\n    parameters:\n      density: [0.2, 0.5]\nparameters: {density: 0.2}\n"
    )
    with pytest.raises(RecipeError, match=r"recipe\.yaml:7: .* takes one 'density' for the whole"):
        api.plan(write_recipe(tmp_path, text, **names))


@pytest.fixture
def shared_need() -> Iterator[None]:
    """A method with a statistic of the base, that its mask reads too, by columns."""
    before = dict(registry.all_methods())

    def _mask(deltas: Tensor, *, energy: Tensor) -> Tensor:
        return (energy > energy.mean(dim=-1, keepdim=True)).float()[None]

    def above(deltas: Tensor, *, mask: Tensor, energy: Tensor, weight: PerModel = (1.0,)) -> Tensor:
        """Keep the deltas where the energy of the base is above its column's mean."""
        assert energy.shape == deltas.shape[1:]
        return (deltas * mask).sum(dim=0) * weight[0]

    need = Need("energy", "energy of the base's activations", per_model=False)
    registry.method(on="deltas", grain="column", mask=_mask, needs=[need], source="-")(above)
    yield
    registry._registered.clear()
    registry._registered.update(before)


@pytest.mark.usefixtures("shared_need")
def test_a_statistic_of_the_base(pool: Pool, tmp_path: Path) -> None:
    recipe = _recipe(pool, merge_method="above", needs={"energy": pool["shared"]})
    del recipe["parameters"]
    with pytest.raises(RecipeError, match="'above' takes no statistic 'score'"):
        planned(recipe)
    recipe["models"] = [{"model": pool["a"], "needs": {"energy": pool["shared"]}}]
    with pytest.raises(RecipeError, match=r"'energy' once for all models; move it to the needs"):
        planned(recipe)
    recipe["models"] = [{"model": pool["a"]}]
    found = merged(recipe, tmp_path / "out", block=40)
    base, expert, energy = llama(0), llama(1), load_file(pool["shared"])
    name = "model.layers.0.mlp.up_proj.weight"
    kept = energy[name] > energy[name].mean(dim=0)
    torch.testing.assert_close(found[name], torch.where(kept, expert[name], base[name]))
    assert api.verify(tmp_path / "out").problems == []


@pytest.mark.usefixtures("shared_need")
def test_statistics_in_memory_are_held_to_their_form(pool: Pool) -> None:
    models = (_held(pool["base"]), [_held(pool["a"]), _held(pool["b"])])
    scores = load_file(pool["shared"])
    fewer = {n: t for n, t in scores.items() if n != "lm_head.weight"}
    cases: list[tuple[str, Any, str]] = [
        ("led_merging", {}, r"'led_merging' needs the statistic 'score' \(importance"),
        ("led_merging", {"score": scores}, "needs the statistic 'base_score'"),
        ("led_merging", {"fisher": scores}, "takes only score, base_score, but was given 'fisher'"),
        ("led_merging", {"score": [scores], "base_score": scores}, "'score' has 1 values for 2"),
        ("led_merging", {"score": fewer, "base_score": scores}, "'lm_head.weight' is missing in"),
        ("ties_official", {"score": scores}, "'ties_official' needs no statistics, but was given"),
        ("above", {"energy": [scores, scores]}, "'energy' has 2 values, but is one for all"),
    ]
    for method, needs, words in cases:
        with pytest.raises(CermetError, match=words):
            cermet.merge_tensors(method, *models, needs=needs)
