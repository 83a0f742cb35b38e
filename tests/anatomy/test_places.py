"""Places where names are few, odd or meant to mislead; and the same tensor in another layer."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cermet.anatomy import Anatomy, survey
from cermet.core.types import Place, Role

Shapes = dict[str, tuple[int, ...]]


def _survey(*names: str, **config: Any) -> Anatomy:
    return survey(dict.fromkeys(names, (4, 4)), config)


def _place(name: str, *others: str) -> Place:
    return _survey(name, *others).places[name]


def _layers(prefix: str, count: int) -> list[str]:
    inner = ("self_attn.q_proj.weight", "mlp.up_proj.weight")
    return [f"{prefix}.{i}.{name}" for i in range(count) for name in inner]


# -- depth --------------------------------------------------------------------


def test_depth_runs_from_nought_in_the_first_layer_to_one_in_the_last() -> None:
    anatomy = _survey("model.embed_tokens.weight", "model.norm.weight", *_layers("model.layers", 5))
    depths = [anatomy.places[f"model.layers.{i}.mlp.up_proj.weight"].depth for i in range(5)]
    assert depths == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert anatomy.places["model.embed_tokens.weight"].depth == 0.0
    assert anatomy.places["model.norm.weight"].depth == 1.0


def test_one_layer_is_a_stack_and_lies_at_the_end() -> None:
    anatomy = _survey(*_layers("model.layers", 1))
    place = anatomy.places["model.layers.0.mlp.up_proj.weight"]
    assert dict(anatomy.stacks) == {"model.layers": 1}
    assert (place.layer, place.layers, place.depth, place.position) == (0, 1, 1.0, "inside")


def test_outside_of_the_layers_the_main_stack_is_counted() -> None:
    anatomy = _survey("lm_head.weight", *_layers("visual.blocks", 2), *_layers("model.layers", 3))
    assert anatomy.places["lm_head.weight"].layers == 3
    assert anatomy.places["visual.blocks.1.mlp.up_proj.weight"].layers == 2
    assert anatomy.places["visual.blocks.1.mlp.up_proj.weight"].depth == 1.0


def test_a_layer_that_is_missing_still_counts() -> None:
    """One shard of several: its layers keep their numbers."""
    names = [n for n in _layers("model.layers", 4) if ".1." not in n]
    anatomy = _survey(*names)
    assert dict(anatomy.stacks) == {"model.layers": 4}
    assert anatomy.places["model.layers.2.mlp.up_proj.weight"].depth == 2 / 3


def test_a_layer_past_the_configs_number_is_one_more_only_where_the_config_says_so() -> None:
    names = _layers("model.layers", 4)
    mtp = _survey(*names, num_hidden_layers=3, num_nextn_predict_layers=1)
    last = mtp.places["model.layers.3.mlp.up_proj.weight"]
    assert dict(mtp.stacks) == {"model.layers": 3}
    assert (last.layer, last.position, last.depth) == (None, "after", 1.0)
    for config in ({"num_hidden_layers": 3}, {"num_nextn_predict_layers": 1}, {}):
        assert dict(_survey(*names, **config).stacks) == {"model.layers": 4}
    two = _survey(*names, num_hidden_layers=2, num_nextn_predict_layers=1)
    assert dict(two.stacks) == {"model.layers": 4}


# -- the stack that recipes slice ---------------------------------------------


@pytest.mark.parametrize(
    ("stacks", "main"),
    [
        ({"encoder.layers": 3, "decoder.layers": 3}, "decoder.layers"),
        ({"vision_tower.layers": 9, "language_model.layers": 2}, "language_model.layers"),
        ({"visual.blocks": 9, "model.layers": 2}, "model.layers"),
        ({"audio_tower.layers": 9, "model.layers": 2}, "model.layers"),
        ({"text_model.layers": 2, "vision_model.layers": 9}, "text_model.layers"),
        ({"visual.blocks": 2}, "visual.blocks"),
        ({"model.layers": 4, "mtp.layers": 1}, "model.layers"),
    ],
)
def test_the_main_stack_is_the_language_models(stacks: dict[str, int], main: str) -> None:
    names = [name for prefix, count in stacks.items() for name in _layers(prefix, count)]
    assert _survey(*names).main == main
    assert dict(_survey(*names).stacks) == stacks


def test_the_number_in_the_config_decides_between_equals() -> None:
    names = [*_layers("a.layers", 2), *_layers("b.layers", 3)]
    assert _survey(*names, num_hidden_layers=2).main == "a.layers"
    assert _survey(*names, num_hidden_layers=3).main == "b.layers"


# -- names without stacks, and numbers that are no layers ---------------------


def test_a_model_without_layers_has_no_main_stack() -> None:
    anatomy = _survey("fc1.weight", "fc2.weight", "norm.weight")
    assert (anatomy.main, dict(anatomy.stacks)) == (None, {})
    assert {(p.layer, p.layers, p.stack) for p in anatomy.places.values()} == {(None, 0, "")}
    assert _survey().main is None


def test_bare_linear_maps_in_a_list_are_layers_where_there_are_no_others() -> None:
    assert dict(_survey("layers.0.weight", "layers.1.weight").stacks) == {"layers": 2}
    assert dict(_survey("mlp.0.weight", "mlp.2.weight").stacks) == {}
    inside = _survey("head.layers.0.weight", "head.layers.1.weight", *_layers("model.layers", 2))
    assert dict(inside.stacks) == {"model.layers": 2}


def test_a_stack_of_an_unknown_name_is_known_by_its_numbers() -> None:
    assert dict(_survey(*_layers("trunk.units", 3)).stacks) == {"trunk.units": 3}
    unlike = ["trunk.units.0.a.weight", "trunk.units.0.b.weight", "trunk.units.1.c.weight"]
    assert dict(_survey(*unlike).stacks) == {}


@pytest.mark.parametrize(
    ("name", "layer", "expert"),
    [
        ("model.layers.1.mlp.experts.3.w1.weight", 1, 3),
        ("model.layers.1.mlp.experts.0.layers.2.weight", 1, 0),
        ("model.layers.1.mlp.shared_experts.0.w1.weight", 1, None),
        ("model.layers.1.mlp.experts.expert_2.wi.weight", 1, 2),
        ("model.layers.1.mlp.0.weight", 1, None),
        ("model.layers.1.attn.to_out.0.weight", 1, None),
        ("model.layers.1.layer.0.SelfAttention.q.weight", 1, None),
        ("experts.3.w1.weight", None, 3),
        ("classifier.1.weight", None, None),
        ("conv.1.weight", None, None),
        ("multi_modal_projector.layers.0.weight", None, None),
        ("adapter.2.weight", None, None),
    ],
)
def test_a_number_that_is_not_the_layers(name: str, layer: int | None, expert: int | None) -> None:
    place = _place(name, *_layers("model.layers", 2))
    assert (place.layer, place.expert) == (layer, expert)


@pytest.mark.parametrize(
    "index",
    [
        "²",
        "٣",
        "१",
        "01",
        "00",
        "1٣",
        "-1",
        "+1",
        "1_0",
        "1e1",
        "",
        " ",
        "1" * 5000,
        "123456",
        "0x1",
    ],
)
def test_what_is_not_a_plain_number_is_no_layer_and_no_expert(index: str) -> None:
    anatomy = _survey(
        f"model.layers.{index}.mlp.up_proj.weight",
        f"model.layers.1.mlp.experts.{index}.w1.weight",
        f"model.layers.1.mlp.experts.expert_{index}.w1.weight",
        *_layers("model.layers", 2),
    )
    odd = [place for name, place in anatomy.places.items() if f".{index}." in name]
    assert dict(anatomy.stacks) == {"model.layers": 2}
    assert [place.layer for place in odd] == [None, 1]
    assert all(place.expert is None for place in anatomy.places.values())


@pytest.mark.parametrize(
    "name",
    ["", ".", "...", "0", "0.1.2.3", ".0.", "layers.0", "weight", ".weight", "bias", " ", "🦙.0.x"],
)
def test_a_name_that_says_nothing_has_a_role_and_a_place(name: str) -> None:
    anatomy = _survey(name, *_layers("model.layers", 2))
    place = anatomy.places[name]
    assert (place.name, place.role, place.layer, place.expert) == (name, Role.DENSE, None, None)
    assert anatomy.at_layer(name, 7) == name


def test_a_name_that_is_far_too_long_is_judged_by_its_shape() -> None:
    """Looking for words in it would take minutes."""
    names = [f"model.layers.1.{'mlp.' * 50_000}up_proj.weight", "embedding" * 50_000]
    places = _survey(*names, *_layers("model.layers", 2)).places
    assert [places[n].role for n in names] == [Role.DENSE, Role.DENSE]
    assert [places[n].layer for n in names] == [1, None]


@pytest.mark.parametrize(
    ("shape", "role"),
    [
        ((), Role.SCALE),
        ((4,), Role.NORM),
        ((4, 4), Role.DENSE),
        ((4, 4, 3), Role.CONV),
        ((4, 4, 3, 3), Role.CONV),
        ((0, 4), Role.DENSE),
    ],
)
def test_a_name_that_says_nothing_is_judged_by_its_shape(
    shape: tuple[int, ...], role: Role
) -> None:
    assert survey({"a.b": shape}, {}).places["a.b"].role == role


_WORDS = """model layers h block 0 1 02 3 ² experts mlp attn q_proj weight bias norm A_log shared
lm_head embed_tokens vision_tower"""
_KEYS = """num_hidden_layers n_layer num_layers decoder_layers is_encoder_decoder num_hidden_groups
num_nextn_predict_layers text_config decoder tie_word_embeddings architectures model_type
hidden_size layer_types"""
_NAMES = st.lists(st.sampled_from([*_WORDS.split(), ""]), max_size=6).map(".".join)
_SHAPES = st.lists(st.integers(0, 5), max_size=4).map(tuple)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 5) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
_CONFIGS = st.dictionaries(st.sampled_from(_KEYS.split()), _JSON)


@given(st.dictionaries(_NAMES, _SHAPES, max_size=12), _CONFIGS)
def test_any_names_and_any_config_have_an_anatomy(shapes: Shapes, config: dict[str, Any]) -> None:
    anatomy = survey(shapes, config)
    assert list(anatomy.places) == list(shapes)
    assert anatomy.main is None or anatomy.main in anatomy.stacks
    for name, place in anatomy.places.items():
        assert 0.0 <= place.depth <= 1.0
        assert (place.layer is None) == (place.stack == "") == (place.position != "inside")
        if place.layer is not None:
            assert name.startswith(f"{place.stack}.{place.layer}.")
            assert 0 <= place.layer < place.layers == anatomy.stacks[place.stack]
            assert anatomy.at_layer(name, place.layer) == name
    for group in anatomy.ties:
        assert group[0] in shapes
        assert len(set(group)) == len(group) > 1


# -- the same tensor in another layer -----------------------------------------


def test_the_name_in_another_layer() -> None:
    name = "model.layers.1.mlp.experts.1.w1.weight"
    anatomy = _survey(name, "model.norm.weight", *_layers("model.layers", 2))
    assert anatomy.at_layer(name, 0) == "model.layers.0.mlp.experts.1.w1.weight"
    assert anatomy.at_layer(name, 120) == "model.layers.120.mlp.experts.1.w1.weight"
    assert anatomy.at_layer("model.norm.weight", 5) == "model.norm.weight"
    with pytest.raises(KeyError):
        anatomy.at_layer("model.layers.9.mlp.up_proj.weight", 0)


def test_every_layer_has_the_names_of_every_other() -> None:
    """Two digits, and a number inside of the layer that is the same as the layer's."""
    inner = ["attn.1.weight", "mlp.experts.11.w1.weight", "norm.weight"]
    names = [[f"transformer.h.{i}.{name}" for name in inner] for i in range(12)]
    anatomy = _survey(*[name for layer in names for name in layer])
    for i in (0, 1, 9, 11):
        for k in (0, 1, 9, 11):
            assert [anatomy.at_layer(name, k) for name in names[i]] == names[k]


def test_an_anatomy_cannot_be_changed() -> None:
    anatomy = _survey("a.weight")
    with pytest.raises(TypeError):
        anatomy.places["b"] = anatomy.places["a.weight"]
