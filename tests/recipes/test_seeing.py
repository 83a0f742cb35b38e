"""Models that see, merged with text-only twins and with one another; run by transformers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cermet import api
from cermet.core.errors import MismatchError, RecipeError
from tests.recipes.pools import config_of, merged, planned
from tests.recipes.senses import logits, reseeded, save_model, twin_of, variant

FAMILIES = ("llava", "qwen2_vl", "internvl", "gemma3")
HEAD = "language_model.lm_head.weight"
UP = "model.layers.1.mlp.up_proj.weight"
EYE = "vision_tower.encoder.layers.1.mlp.fc1.weight"
JOIN = "multi_modal_projector.linear_1.weight"


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of each family a model, its twin in text (`twin`), and one with other weights (`math`)."""
    root = tmp_path_factory.mktemp("seeing")
    for family in FAMILIES:
        model = save_model(family, root / family / "vlm", seed=1)
        twin = twin_of(family, model, root / family / "twin")
        reseeded(twin, root / family / "math", seed=2)
    reseeded(str(root / "llava" / "vlm"), root / "llava" / "charts", seed=3)
    save_model("llava", root / "other", seed=4, model_type="qwen2")
    (root / "llava" / "vlm" / "processor_config.json").write_text('{"patch_size": 8}')
    return root


@pytest.fixture
def llava(pool: Path) -> dict[str, str]:
    return {name: str(pool / "llava" / name) for name in ("vlm", "twin", "math", "charts")}


def _listed(**weights: float) -> list[dict[str, Any]]:
    return [{"model": m, "parameters": {"weight": w}} for m, w in weights.items()]


def _linear(*models: str, **more: Any) -> dict[str, Any]:
    listed = [{"model": m} for m in models]
    return {"merge_method": "linear", "models": listed, "parameters": {"weight": 0.5}, **more}


def _deltas(base: str, *models: str, **more: Any) -> dict[str, Any]:
    return {**_linear(*models, **more), "merge_method": "task_arithmetic", "base_model": base}


def _tensors(path: str) -> dict[str, Tensor]:
    return dict(api.open(path))


# -- with a twin ----------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_all_of_the_twin_gives_its_logits(family: str, pool: Path, tmp_path: Path) -> None:
    model, math = (str(pool / family / name) for name in ("vlm", "math"))
    listed = _listed(**{model: 0.0, math: 1.0})
    api.merge({"merge_method": "linear", "models": listed}, tmp_path / "out")
    torch.testing.assert_close(logits(tmp_path / "out"), logits(math), rtol=0, atol=0)
    assert config_of(tmp_path / "out")["architectures"] == config_of(model)["architectures"]
    before, after = _tensors(model), _tensors(str(tmp_path / "out"))
    kept = [n for n in before if "visi" in n or "visual" in n or "projector" in n]
    assert len(kept) > 25
    assert all(torch.equal(before[n], after[n]) for n in kept)
    assert api.verify(tmp_path / "out").problems == []


@pytest.mark.parametrize("family", FAMILIES)
def test_the_models_own_twin_changes_nothing(family: str, pool: Path, tmp_path: Path) -> None:
    model, twin = (str(pool / family / name) for name in ("vlm", "twin"))
    found = merged(_linear(model, twin), tmp_path / "out")
    expected = _tensors(model)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[n], expected[n]) for n in found)
    assert torch.equal(logits(tmp_path / "out"), logits(model))


def test_the_output_sees_as_before(llava: dict[str, str], tmp_path: Path) -> None:
    """Four tokens stand for the four patches of an image."""
    same = variant(llava["vlm"], tmp_path / "vlm", dict, image_token_id=60, image_token_index=60)
    image = torch.linspace(-1, 1, 3 * 16 * 16).reshape(1, 3, 16, 16)
    tokens = torch.tensor([[3, 60, 60, 60, 60, 9, 11]])
    before = logits(same, input_ids=tokens, pixel_values=image)
    assert not torch.equal(before, logits(same, input_ids=tokens, pixel_values=-image))
    api.merge(_linear(same, llava["twin"]), tmp_path / "out")
    assert torch.equal(logits(tmp_path / "out", input_ids=tokens, pixel_values=image), before)


def test_the_arithmetic_and_what_is_said(llava: dict[str, str], tmp_path: Path) -> None:
    plan = planned(_deltas(llava["vlm"], llava["math"]))
    mapped, kept = plan.notes
    assert f"'{llava['math']}' is mapped onto '{llava['vlm']}'" in mapped
    assert "text_decoder (30 tensors), such as 'model.layers.0." in mapped
    assert "multi_modal_projector (4 tensors) and vision_tower (39 tensors)" in kept
    found = merged(_deltas(llava["vlm"], llava["math"]), tmp_path / "out")
    one, other = _tensors(llava["vlm"]), _tensors(llava["math"])
    expected = one[f"language_model.{UP}"] / 2 + other[UP] / 2
    torch.testing.assert_close(found[f"language_model.{UP}"], expected)
    record = json.loads((tmp_path / "out" / "cermet.json").read_text("utf-8"))
    assert record["fitting"] == list(plan.notes)
    entry = record["tensors"][f"language_model.{UP}"]
    assert [s["tensor"] for s in entry["sources"]] == [UP, f"language_model.{UP}"]
    assert record["tensors"][EYE]["method"] == "copy"
    assert (tmp_path / "out" / "processor_config.json").read_text() == '{"patch_size": 8}'


def test_a_base_of_its_own_is_mapped_too(llava: dict[str, str], tmp_path: Path) -> None:
    recipe = _deltas(llava["vlm"])
    recipe["models"] = [{"model": llava["math"], "delta_of": llava["twin"]}]
    found = merged({**recipe, "parameters": {"weight": 1.0}}, tmp_path / "out")
    math = _tensors(llava["math"])
    torch.testing.assert_close(found[f"language_model.{UP}"], math[UP])
    assert torch.equal(found[EYE], _tensors(llava["vlm"])[EYE])


def test_a_base_of_text_alone_and_experts_that_see(llava: dict[str, str], tmp_path: Path) -> None:
    recipe = _deltas(llava["twin"], llava["charts"], llava["vlm"])
    assert planned(recipe).notes[0] == (
        f"The output has the form of '{llava['charts']}', since '{llava['twin']}' takes text alone."
    )
    found = merged(recipe, tmp_path / "out")
    twin, charts, vlm = (_tensors(llava[n]) for n in ("twin", "charts", "vlm"))
    name = f"language_model.{UP}"
    torch.testing.assert_close(found[name], (charts[name] + vlm[name]) / 2)
    assert torch.equal(found[EYE], charts[EYE])  # no base to subtract
    assert torch.equal(vlm[name], twin[UP])
    assert logits(tmp_path / "out").shape == (1, 8, 64)


def test_a_tower_is_merged_over_the_models_that_have_it(
    llava: dict[str, str], tmp_path: Path
) -> None:
    recipe = _deltas(llava["vlm"], llava["charts"], llava["math"])
    assert any(
        n.startswith(f"Merged without '{llava['math']}'") and "vision_tower (39 tensors)" in n
        for n in planned(recipe).notes
    )
    found = merged(recipe, tmp_path / "out")
    vlm, charts = _tensors(llava["vlm"]), _tensors(llava["charts"])
    torch.testing.assert_close(found[EYE], (vlm[EYE] + charts[EYE]) / 2)


def test_a_method_without_a_base_keeps_what_some_lack(
    llava: dict[str, str], tmp_path: Path
) -> None:
    """Half of a sum of weights would be lost."""
    recipe = _linear(llava["math"], llava["vlm"], llava["charts"])
    found = merged({**recipe, "parameters": {"weight": 0.3, "normalize": False}}, tmp_path / "out")
    assert torch.equal(found[EYE], _tensors(llava["vlm"])[EYE])


def test_what_is_kept_is_cast(llava: dict[str, str], tmp_path: Path) -> None:
    found = merged(_linear(llava["vlm"], llava["math"], dtype="bfloat16"), tmp_path / "out")
    assert {t.dtype for t in found.values()} == {torch.bfloat16}
    assert torch.equal(found[EYE], _tensors(llava["vlm"])[EYE].bfloat16())
    assert api.verify(tmp_path / "out").problems == []


def test_experts_can_be_restored(llava: dict[str, str], tmp_path: Path) -> None:
    recipe: dict[str, Any] = {"merge_method": "emr", "base_model": llava["vlm"]}
    recipe["models"] = [{"model": llava["math"]}, {"model": llava["twin"]}]
    assert api.merge(recipe, tmp_path / "out").experts == ("math", "twin")


def test_a_twin_with_a_head_of_its_own_unties_the_output(pool: Path, tmp_path: Path) -> None:
    gemma = {name: str(pool / "gemma3" / name) for name in ("vlm", "math")}

    def headed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {**tensors, "lm_head.weight": 2 * tensors["model.embed_tokens.weight"]}

    own = variant(gemma["math"], tmp_path / "own", headed, tie_word_embeddings=False)
    listed = _listed(**{gemma["vlm"]: 0.0, own: 1.0})
    found = merged({"merge_method": "linear", "models": listed}, tmp_path / "out")
    assert HEAD in found
    torch.testing.assert_close(logits(tmp_path / "out"), logits(own), rtol=0, atol=0)


# -- other forms, other families ------------------------------------------------


def test_another_family_gives_its_language_part(pool: Path, tmp_path: Path) -> None:
    qwen, other = str(pool / "qwen2_vl" / "vlm"), str(pool / "other")
    notes = planned(_linear(qwen, other)).notes
    left = "its multi_modal_projector (4 tensors) and vision_tower (39 tensors) are left out"
    assert left in notes[0]
    for one, two in ((qwen, other), (other, qwen)):
        out = tmp_path / Path(one).name
        found, mine, theirs = merged(_linear(one, two), out), _tensors(one), _tensors(two)
        prefix, second = ("", "language_model.") if one == qwen else ("language_model.", "")
        expected = (mine[prefix + UP] + theirs[second + UP]) / 2
        torch.testing.assert_close(found[prefix + UP], expected)
        assert found.keys() == mine.keys()
        logits(out)


def test_todays_names_and_those_of_the_files(pool: Path, tmp_path: Path) -> None:
    """Qwen2-VL as transformers spells it in memory, beside its files: towers are merged too."""
    qwen = str(pool / "qwen2_vl" / "vlm")

    def spelt(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        new = {re.sub(r"^model\.", "model.language_model.", n): t for n, t in tensors.items()}
        return {re.sub(r"^visual\.", "model.visual.", n): 2 * t for n, t in new.items()}

    other = variant(qwen, tmp_path / "other", spelt)
    found, mine = merged(_linear(qwen, other), tmp_path / "out"), _tensors(qwen)
    assert found.keys() == mine.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, 1.5 * mine[name])


def test_filters_have_the_names_of_the_output(llava: dict[str, str], tmp_path: Path) -> None:
    recipe = _linear(llava["vlm"], llava["math"])
    own = recipe["models"][1]
    own["parameters"] = {"weight": [{"filter": "language_model.model.layers.0", "value": 0.0}]}
    found, mine = merged(recipe, tmp_path / "out"), _tensors(llava["vlm"])
    first = f"language_model.{UP}".replace(".1.", ".0.")
    assert torch.equal(found[first], mine[first])
    assert not torch.equal(found[f"language_model.{UP}"], mine[f"language_model.{UP}"])


def test_a_filter_with_the_names_of_the_twin_matches_nothing(
    llava: dict[str, str], tmp_path: Path
) -> None:
    def spelt(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {f"lm.{name}": tensor for name, tensor in tensors.items()}

    recipe = _linear(llava["vlm"], variant(llava["twin"], tmp_path / "spelt", spelt))
    recipe["models"][1]["parameters"] = {"weight": [{"filter": "lm.model", "value": 0.1}]}
    with pytest.raises(RecipeError, match=r"the filter 'lm\.model' matches no tensor"):
        planned(recipe)


def test_two_models_of_text_with_other_names(llava: dict[str, str], tmp_path: Path) -> None:
    """As a model is saved without its head class, and as GPT-2's first files were."""

    def bare(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name.removeprefix("model."): tensor for name, tensor in tensors.items()}

    twin = llava["twin"]
    other = variant(llava["math"], tmp_path / "bare", bare)
    found, mine, theirs = (
        merged(_linear(twin, other), tmp_path / "out"),
        *map(_tensors, (twin, other)),
    )
    assert found.keys() == mine.keys()
    torch.testing.assert_close(found[UP], (mine[UP] + theirs[UP.removeprefix("model.")]) / 2)


def test_slices_may_take_layers_of_a_twin(llava: dict[str, str], tmp_path: Path) -> None:
    slices = [
        {"sources": [{"model": llava["math"], "layer_range": [0, 2]}]},
        {"sources": [{"model": llava["vlm"], "layer_range": [1, 3]}]},
    ]
    found = merged({"merge_method": "passthrough", "slices": slices}, tmp_path / "out")
    vlm, math = _tensors(llava["vlm"]), _tensors(llava["math"])
    assert torch.equal(found[f"language_model.{UP}"], math[UP])
    moved = f"language_model.{UP}".replace(".1.", ".2.")
    assert torch.equal(found[moved], vlm[f"language_model.{UP}"])
    assert torch.equal(found[EYE], vlm[EYE])
    assert torch.equal(found[JOIN], vlm[JOIN])
    assert config_of(tmp_path / "out")["text_config"]["num_hidden_layers"] == 4
    logits(tmp_path / "out")


# -- keep -------------------------------------------------------------------------


def test_keep_leaves_modules_and_roles(llava: dict[str, str], tmp_path: Path) -> None:
    keep = ["vision_tower", "projector", "norm"]
    found = merged(_linear(llava["vlm"], llava["charts"], keep=keep), tmp_path / "out")
    mine = _tensors(llava["vlm"])
    same = {name for name in found if torch.equal(found[name], mine[name])}
    kept = {n for n in mine if not n.startswith("language_model.") or "norm" in n}
    assert same == kept


def _wider(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: torch.cat([t, t[:6]]) if len(t) == 64 else t for n, t in tensors.items()}


def test_a_vocabulary_of_another_size_is_refused_or_kept(
    llava: dict[str, str], tmp_path: Path
) -> None:
    big = variant(llava["math"], tmp_path / "big", _wider, vocab_size=70)
    with pytest.raises(MismatchError, match=r"write `keep: \[embedding, head\]`"):
        planned(_linear(llava["vlm"], big))
    recipe = _linear(llava["vlm"], big, keep=["embedding", "head"])
    found, mine = merged(recipe, tmp_path / "out"), _tensors(llava["vlm"])
    assert torch.equal(found[HEAD], mine[HEAD])
    torch.testing.assert_close(
        found[f"language_model.{UP}"], (mine[f"language_model.{UP}"] + _tensors(big)[UP]) / 2
    )
    logits(tmp_path / "out")


def test_a_tower_of_another_shape_is_refused_or_kept(llava: dict[str, str], tmp_path: Path) -> None:
    def smaller(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {n: t[..., :4, :4].contiguous() if t.dim() == 4 else t for n, t in tensors.items()}

    other = variant(llava["vlm"], tmp_path / "other", smaller)
    with pytest.raises(MismatchError, match=r"write `keep: \[vision_tower\]`"):
        planned(_linear(llava["vlm"], other))
    assert planned(_linear(llava["vlm"], other, keep=["vision_tower"])).notes


def test_roles_are_kept_outside_of_towers(llava: dict[str, str], tmp_path: Path) -> None:
    found = merged(_linear(llava["vlm"], llava["charts"], keep=["embedding"]), tmp_path / "out")
    mine = _tensors(llava["vlm"])
    kept = {name for name in found if torch.equal(found[name], mine[name])}
    assert kept == {"language_model.model.embed_tokens.weight"}


def test_a_tied_head_is_kept_with_its_embedding(pool: Path) -> None:
    gemma = [str(pool / "gemma3" / name) for name in ("vlm", "math")]
    with pytest.raises(RecipeError, match="ties its head to its embedding"):
        planned(_linear(*gemma, keep=["head"]))
    assert planned(_linear(*gemma, keep=["embedding", "head"])).notes


@pytest.mark.parametrize("name", ["vision_towr", "encoder", "router", "conv"])
def test_keep_names_what_there_is(name: str, llava: dict[str, str]) -> None:
    with pytest.raises(RecipeError) as caught:
        planned(_linear(llava["vlm"], llava["charts"], keep=[name]))
    assert f"has no module or role '{name}' to keep" in str(caught.value)
    assert "its modules are text_decoder, multi_modal_projector, vision_tower" in str(caught.value)


def test_a_model_of_text_keeps_roles_too(llava: dict[str, str], tmp_path: Path) -> None:
    recipe = _linear(llava["twin"], llava["math"], keep=["embedding"])
    found, mine = merged(recipe, tmp_path / "out"), _tensors(llava["twin"])
    kept = {name for name in found if torch.equal(found[name], mine[name])}
    assert kept == {"model.embed_tokens.weight"}


# -- refused ----------------------------------------------------------------------


def _without(name: str) -> Any:
    return lambda tensors: {n: t for n, t in tensors.items() if n != name}


@pytest.mark.parametrize(
    ("model", "name", "words"),
    [
        ("math", UP, f"Tensor 'language_model.{UP}' [48, 32]"),
        ("math", "lm_head.weight", "`keep: [head]` leaves"),
        ("math", "model.norm.weight", "'language_model.model.norm.weight' [32]"),
        ("charts", EYE, f"Tensor '{EYE}' [48, 32]"),
    ],
)
def test_a_damaged_model_is_refused(
    model: str, name: str, words: str, llava: dict[str, str], tmp_path: Path
) -> None:
    broken = variant(llava[model], tmp_path / "broken", _without(name))
    with pytest.raises(MismatchError) as caught:
        planned(_linear(llava["vlm"], broken))
    assert words in str(caught.value)


def test_another_architecture_is_refused(pool: Path, llava: dict[str, str]) -> None:
    with pytest.raises(MismatchError, match=r"k_proj\.bias' \[16\].* and 8 more have no counter"):
        planned(_linear(llava["vlm"], str(pool / "qwen2_vl" / "math")))


def test_another_depth_is_refused(llava: dict[str, str], tmp_path: Path) -> None:
    def shorter(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {n: t for n, t in tensors.items() if ".layers.2." not in n}

    short = variant(llava["math"], tmp_path / "short", shorter, num_hidden_layers=2)
    with pytest.raises(MismatchError, match=r"has 2 layers, .* has 3; use slices"):
        planned(_linear(llava["vlm"], short))


def test_a_method_that_looks_at_the_whole_model(llava: dict[str, str], tmp_path: Path) -> None:
    """Kept tensors are no part of it; a tower without one of the models is refused."""
    recipe = _deltas(llava["vlm"], llava["math"], llava["twin"], dtype="bfloat16")
    recipe = {**recipe, "merge_method": "ties_official", "parameters": {}}
    assert planned(recipe).notes
    recipe["models"] = [{"model": llava["math"]}, {"model": llava["charts"]}]
    with pytest.raises(RecipeError, match="needs the same number of models"):
        planned(recipe)
