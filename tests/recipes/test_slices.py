"""Slices: layers stacked, dropped and merged; layer counts and lists by layer are corrected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cermet.core.errors import MismatchError, RecipeError
from tests.recipes.pools import (
    HIDDEN,
    config_of,
    llama,
    llama_config,
    merged,
    planned,
    save,
    save_llama,
    task,
)


def _stack(*pieces: tuple[str, int, int], **more: Any) -> dict[str, Any]:
    """A passthrough of one source for each piece."""
    slices = [{"sources": [{"model": m, "layer_range": [a, b]}]} for m, a, b in pieces]
    return {"merge_method": "passthrough", "slices": slices, **more}


def test_layers_are_stacked_in_order(tmp_path: Path) -> None:
    a, b = save_llama(tmp_path / "a", 1, 3), save_llama(tmp_path / "b", 2, 3)
    found = merged(_stack((a, 0, 2), (b, 1, 3), (a, 2, 3)), tmp_path / "out")
    one, two = llama(1, 3), llama(2, 3)
    for out, (source, layer) in enumerate([(one, 0), (one, 1), (two, 1), (two, 2), (one, 2)]):
        for part in ("self_attn.q_proj", "mlp.down_proj", "input_layernorm"):
            expected = source[f"model.layers.{layer}.{part}.weight"]
            assert torch.equal(found[f"model.layers.{out}.{part}.weight"], expected)
    assert "model.layers.5.mlp.down_proj.weight" not in found
    assert config_of(tmp_path / "out")["num_hidden_layers"] == 5


def test_one_slice_of_all_layers_is_a_copy(tmp_path: Path) -> None:
    model = save_llama(tmp_path / "a", 1, 3)
    found = merged(_stack((model, 0, 3)), tmp_path / "out")
    assert all(torch.equal(found[name], value) for name, value in llama(1, 3).items())


def test_what_is_before_comes_from_the_first_slice_and_what_is_after_from_the_last(
    tmp_path: Path,
) -> None:
    a, b = save_llama(tmp_path / "a", 1), save_llama(tmp_path / "b", 2)
    found = merged(_stack((a, 0, 1), (b, 1, 2)), tmp_path / "out")
    assert torch.equal(found["model.embed_tokens.weight"], llama(1)["model.embed_tokens.weight"])
    assert torch.equal(found["model.norm.weight"], llama(2)["model.norm.weight"])
    assert torch.equal(found["lm_head.weight"], llama(2)["lm_head.weight"])


def _merge_slices(a: str, b: str, t: Any) -> dict[str, Any]:
    """The slerp of a's layers 0-3 with b's layers 1-4, and of layers 3-5 of both."""
    spans = [([0, 3], [1, 4]), ([3, 5], [3, 5])]
    slices = [
        {"sources": [{"model": a, "layer_range": x}, {"model": b, "layer_range": y}]}
        for x, y in spans
    ]
    return {"merge_method": "slerp", "base_model": a, "slices": slices, "parameters": {"t": t}}


def test_a_gradient_runs_within_each_slice(tmp_path: Path) -> None:
    a, b = save_llama(tmp_path / "a", 1, 5), save_llama(tmp_path / "b", 2, 5)
    plan = planned(_merge_slices(a, b, [0, 1]))
    found = [task(plan, f"layers.{i}.mlp.up").parameters["t"] for i in range(5)]
    assert found == [0, 0.5, 1, 0, 1]
    outside = ("embed_tokens", "model.norm", "lm_head")
    assert [task(plan, name).parameters["t"] for name in outside] == [0, 0, 0]


def test_sources_of_a_slice_may_lend_different_layers(tmp_path: Path) -> None:
    a, b = save_llama(tmp_path / "a", 1, 5), save_llama(tmp_path / "b", 2, 5)
    found = task(planned(_merge_slices(a, b, 0.5)), "layers.2.mlp.up")
    names = [n.tensor for n in found.sources]
    assert names == ["model.layers.2.mlp.up_proj.weight", "model.layers.3.mlp.up_proj.weight"]


def test_a_filter_for_one_model_reads_the_name_in_that_model(tmp_path: Path) -> None:
    a, b = save_llama(tmp_path / "a", 1, 4), save_llama(tmp_path / "b", 2, 4)
    cases = [{"filter": "layers.3.", "value": 7}, {"value": 1}]
    sources = [
        {"model": a, "layer_range": [0, 2], "parameters": {"weight": 1}},
        {"model": b, "layer_range": [2, 4], "parameters": {"weight": cases}},
    ]
    plan = planned({"merge_method": "linear", "slices": [{"sources": sources}]})
    assert task(plan, "layers.1.mlp.up").parameters["weight"] == (1, 7)
    assert task(plan, "layers.0.mlp.up").parameters["weight"] == (1, 1)


@pytest.mark.parametrize("span", [[0, -1], [0, 4], [2, 2], [2, 1], [-1, 2], [3, 5]])
def test_a_range_outside_of_the_model_is_refused(span: list[int], tmp_path: Path) -> None:
    a = save_llama(tmp_path / "a", 1, 3)
    with pytest.raises(RecipeError, match=r"is not inside the 3 layers of") as caught:
        planned(_stack((a, *span)))  # type: ignore[arg-type]
    assert str(span) in str(caught.value)


def test_sources_of_unequal_length_are_refused(tmp_path: Path) -> None:
    a, b = save_llama(tmp_path / "a", 1, 3), save_llama(tmp_path / "b", 2, 3)
    recipe = _merge_slices(a, b, 0.5)
    recipe["slices"] = recipe["slices"][:1]
    recipe["slices"][0]["sources"][1]["layer_range"] = [0, 2]
    with pytest.raises(RecipeError, match="this source has 2 layers, the first of the slice 3"):
        planned(recipe)


def test_a_slice_lists_its_base(tmp_path: Path) -> None:
    a, b = save_llama(tmp_path / "a", 1), save_llama(tmp_path / "b", 2)
    sources = [{"model": b, "layer_range": [0, 2], "parameters": {"weight": 1}}]
    recipe = {"merge_method": "ties", "base_model": a, "slices": [{"sources": sources}]}
    with pytest.raises(RecipeError, match="not among the sources of this slice; list it"):
        planned(recipe)
    sources.append({"model": a, "layer_range": [0, 2]})
    assert len(planned(recipe).models) == 2


def test_a_slice_may_have_a_base_of_its_own(tmp_path: Path) -> None:
    a, b = save_llama(tmp_path / "a", 1), save_llama(tmp_path / "b", 2)
    sources = [{"model": m, "layer_range": [0, 1]} for m in (a, b)]
    slices = [{"sources": sources}, {"sources": sources, "base_model": b}]
    recipe = {"merge_method": "slerp", "base_model": a, "slices": slices, "parameters": {"t": 0}}
    found = merged(recipe, tmp_path / "out")
    name = "mlp.up_proj.weight"
    for layer in range(2):
        expected = llama(layer + 1)[f"model.layers.0.{name}"]
        torch.testing.assert_close(found[f"model.layers.{layer}.{name}"], expected)


def test_slices_need_ranges(tmp_path: Path) -> None:
    a = save_llama(tmp_path / "a", 1)
    recipe = {"merge_method": "passthrough", "slices": [{"sources": [{"model": a}]}]}
    with pytest.raises(RecipeError, match="has no layer_range"):
        planned(recipe)


def test_layers_with_other_tensors_do_not_merge(tmp_path: Path) -> None:
    a = save_llama(tmp_path / "a", 1)
    more = {**llama(2), "model.layers.1.self_attn.q_norm.weight": torch.ones(HIDDEN)}
    b = save(tmp_path / "b", more, llama_config())
    recipe = _merge_slices(a, b, 0.5)
    for piece in recipe["slices"]:
        for source in piece["sources"]:
            source["layer_range"] = [1, 2]
    with pytest.raises(MismatchError, match=r"q_norm\.weight' of .* has no counterpart"):
        planned(recipe)


def test_scale_0_silences_an_output_projection_alone(tmp_path: Path) -> None:
    a = save_llama(tmp_path / "a", 1)
    cases = [{"filter": "o_proj", "value": 0.0}, {"value": 1.0}]
    recipe = _stack((a, 0, 2), (a, 0, 2))
    recipe["slices"][1]["sources"][0]["parameters"] = {"scale": cases}
    found = merged(recipe, tmp_path / "out")
    for layer in range(4):
        out = found[f"model.layers.{layer}.self_attn.o_proj.weight"]
        assert bool((out == 0).all()) == (layer >= 2)
        assert bool(found[f"model.layers.{layer}.mlp.down_proj.weight"].abs().min() > 0)
    assert torch.equal(found["lm_head.weight"], llama(1)["lm_head.weight"])


_KINDS = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]


def test_lists_by_layer_follow_the_layers(tmp_path: Path) -> None:
    more = {"layer_types": _KINDS, "mrope_section": [1, 2, 3, 4], "architectures": ["X"] * 4}
    a = save_llama(tmp_path / "a", 1, 4, **more)
    b = save_llama(tmp_path / "b", 2, 4, **{**more, "layer_types": ["linear_attention"] * 4})
    merged(_stack((a, 0, 3), (b, 3, 4), (a, 3, 4)), tmp_path / "out")
    found = config_of(tmp_path / "out")
    assert found["layer_types"] == [*_KINDS[:3], "linear_attention", _KINDS[3]]
    assert found["num_hidden_layers"] == 5
    assert found["mrope_section"] == [1, 2, 3, 4]  # as long as there are layers, by chance


def test_a_list_that_one_model_lacks_is_refused(tmp_path: Path) -> None:
    a = save_llama(tmp_path / "a", 1, 4, layer_types=_KINDS)
    b = save_llama(tmp_path / "b", 2, 4)
    with pytest.raises(MismatchError, match="has no 'layer_types' with an entry for each"):
        planned(_stack((a, 0, 2), (b, 2, 4)))


def test_nested_configs_are_corrected(tmp_path: Path) -> None:
    inner = llama_config(2, layer_types=_KINDS[:2])
    a = save(tmp_path / "a", llama(1), {"model_type": "llava", "text_config": inner})
    merged(_stack((a, 0, 2), (a, 1, 2)), tmp_path / "out")
    found = config_of(tmp_path / "out")["text_config"]
    assert found["num_hidden_layers"] == 3
    assert found["layer_types"] == [_KINDS[0], _KINDS[1], _KINDS[1]]


def _gpt2(folder: Path, layers: int) -> str:
    """A GPT-2 of a hidden size of 8, as transformers names its tensors."""
    own = torch.Generator().manual_seed(0)
    shapes = {"wte.weight": (10, 8), "wpe.weight": (6, 8), "ln_f.weight": (8,), "ln_f.bias": (8,)}
    for i in range(layers):
        for part in ("ln_1", "ln_2"):
            shapes |= {f"h.{i}.{part}.weight": (8,), f"h.{i}.{part}.bias": (8,)}
        for part, width in (("attn.c_attn", 24), ("attn.c_proj", 8), ("mlp.c_fc", 32)):
            shapes |= {f"h.{i}.{part}.weight": (8, width), f"h.{i}.{part}.bias": (width,)}
        shapes |= {f"h.{i}.mlp.c_proj.weight": (32, 8), f"h.{i}.mlp.c_proj.bias": (8,)}
    values = {name: torch.randn(shape, generator=own) for name, shape in shapes.items()}
    config = {"model_type": "gpt2", "n_layer": layers, "n_embd": 8, "n_head": 2, "vocab_size": 10}
    return save(folder, values, config)


def test_gpt2_on_itself_has_24_layers(tmp_path: Path) -> None:
    a = _gpt2(tmp_path / "a", 12)
    found = merged(_stack((a, 0, 12), (a, 0, 12)), tmp_path / "out")
    assert config_of(tmp_path / "out")["n_layer"] == 24
    assert torch.equal(found["h.23.mlp.c_proj.weight"], found["h.11.mlp.c_proj.weight"])
    assert len(found) == 4 + 24 * 12
