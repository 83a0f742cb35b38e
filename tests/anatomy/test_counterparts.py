"""Tensors of two models that do the same, by name, by role and by depth; and refusals to guess."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cermet.anatomy import Counterparts, find_counterparts, find_modules, survey
from tests.anatomy.families import Shapes, Specimen, released, saved, specimen

ALL = ("text_decoder", "vision_tower", "multi_modal_projector", "default")


def _pairs(own: Specimen, anchor: Specimen, wanted: tuple[str, ...] = ALL) -> Counterparts:
    mine = survey(own.shapes, own.config)
    theirs = survey(anchor.shapes, anchor.config)
    return find_counterparts(mine, find_modules(mine), theirs, find_modules(theirs), wanted)


def _specimen(shapes: Mapping[str, tuple[int, ...]], **config: Any) -> Specimen:
    return Specimen(dict(shapes), config)


def _renamed(found: Specimen, *changes: tuple[str, str]) -> Specimen:
    shapes: Shapes = dict(found.shapes)
    for old, new in changes:
        shapes = {name.replace(old, new): shape for name, shape in shapes.items()}
    return Specimen(shapes, found.config)


def test_a_text_model_and_a_llava() -> None:
    pairs = _pairs(saved("llama"), saved("llava"))
    assert len(pairs.names) == 30
    assert pairs.names == {name: f"language_model.{name}" for name in pairs.names}
    assert (pairs.unmatched, pairs.lacking, pairs.left_out) == ((), (), ())


def test_the_same_names_within_the_whole() -> None:
    pairs = _pairs(saved("qwen2"), saved("qwen2_vl"))
    assert pairs.names == {name: name for name in saved("qwen2").shapes}


def test_todays_names_and_those_of_the_first_release() -> None:
    """Towers too: `vision_tower.` and `vision_tower.vision_model.`, which transformers renamed."""
    pairs = _pairs(saved("llava"), released("llava"))
    assert set(pairs.names.values()) == set(released("llava").shapes)
    pairs = _pairs(specimen("qwen2_vl"), saved("qwen2_vl"))
    assert set(pairs.names.values()) == set(saved("qwen2_vl").shapes)


def test_a_head_that_the_anchor_ties_has_the_name_that_it_would_have() -> None:
    pairs = _pairs(specimen("gemma3_text"), saved("gemma3"))
    assert pairs.names["lm_head.weight"] == "language_model.lm_head.weight"


def test_a_head_that_the_other_ties_is_not_lacking() -> None:
    own = Specimen(
        {n: s for n, s in saved("llama").shapes.items() if n != "lm_head.weight"},
        {**saved("llama").config, "tie_word_embeddings": True},
    )
    assert _pairs(own, saved("llava")).lacking == ()
    untied = Specimen(own.shapes, saved("llama").config)
    assert _pairs(untied, saved("llava")).lacking == ("language_model.lm_head.weight",)


def test_other_names_inside_the_layers_are_paired_by_role() -> None:
    """Mistral's and InternLM2's spelling; norms by where they stand."""
    changes = (
        ("self_attn.q_proj", "attention.wq"),
        ("self_attn.k_proj", "attention.wk"),
        ("self_attn.v_proj", "attention.wv"),
        ("self_attn.o_proj", "attention.wo"),
        ("mlp.gate_proj", "feed_forward.w1"),
        ("mlp.down_proj", "feed_forward.w2"),
        ("mlp.up_proj", "feed_forward.w3"),
        ("input_layernorm", "attention_norm"),
        ("post_attention_layernorm", "ffn_norm"),
    )
    own = _renamed(saved("llama"), *changes)
    pairs = _pairs(own, saved("llava"))
    back = _renamed(saved("llama"), ("", ""))
    expected = {a: f"language_model.{b}" for a, b in zip(own.shapes, back.shapes, strict=True)}
    assert dict(pairs.names) == expected
    assert pairs.unmatched == ()


def test_what_could_be_two_is_not_guessed() -> None:
    own = _renamed(
        saved("llama"), ("input_layernorm", "norm_a"), ("post_attention_layernorm", "norm_b")
    )
    pairs = _pairs(own, saved("llava"))
    assert [n for n in pairs.unmatched if ".0." in n] == [
        "model.layers.0.norm_a.weight",
        "model.layers.0.norm_b.weight",
    ]


def test_fused_and_separate_matrices_have_no_counterparts() -> None:
    pairs = _pairs(saved("phi3"), saved("llava"))
    assert "model.layers.0.self_attn.qkv_proj.weight" in pairs.unmatched


def test_a_tensor_missing_in_one_layer_is_lacking_and_in_all_layers_is_not() -> None:
    shapes = saved("llama").shapes
    one = {n: s for n, s in shapes.items() if n != "model.layers.1.mlp.up_proj.weight"}
    all_ = {n: s for n, s in shapes.items() if "input_layernorm" not in n}
    config = saved("llama").config
    lacking = "language_model.model.layers.1.mlp.up_proj.weight"
    assert _pairs(Specimen(one, config), saved("llava")).lacking == (lacking,)
    assert _pairs(Specimen(all_, config), saved("llava")).lacking == ()


def test_another_tower_is_left_out_and_its_projector_with_it() -> None:
    shapes = {
        name: (shape[0], 3, 4, 4) if name.endswith("patch_embedding.weight") else shape
        for name, shape in saved("llava").shapes.items()
    }
    pairs = _pairs(Specimen(shapes, saved("llava").config), saved("llava"))
    assert pairs.left_out == ("multi_modal_projector", "vision_tower")
    assert len(pairs.names) == 30


def test_a_damaged_tower_is_not_another_one() -> None:
    gone = "vision_tower.encoder.layers.1.mlp.fc1.weight"
    shapes = {name: shape for name, shape in saved("llava").shapes.items() if name != gone}
    damaged = Specimen(shapes, saved("llava").config)
    assert _pairs(damaged, saved("llava")).lacking == (gone,)
    assert _pairs(saved("llava"), damaged).unmatched == (gone,)
    assert _pairs(damaged, saved("llava"), ("text_decoder",)).lacking == ()


def test_modules_that_are_not_wanted_have_no_counterparts() -> None:
    pairs = _pairs(saved("llava"), released("llava"), ("multi_modal_projector",))
    assert all(name.startswith("multi_modal_projector.") for name in pairs.names)
    assert len(pairs.names) == 4


def test_one_tensor_alone_is_paired_by_the_name_of_its_module() -> None:
    language = {
        f"model.layers.{i}.mlp.{n}_proj.weight": (4, 4) for i in (0, 1) for n in ("up", "o")
    }
    eyes = {f"visual.blocks.{i}.mlp.{n}.weight": (4, 4) for i in (0, 1) for n in ("fc1", "fc2")}
    one = _specimen({**language, **eyes, "visual.merger.mlp.weight": (4, 4)})
    other = _specimen({**language, **eyes, "visual.merger.linear.weight": (4, 4)})
    assert _pairs(one, other).left_out == ("multi_modal_projector",)
