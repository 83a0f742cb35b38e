"""What a config says about layers: where their number stands, and what it lists for each."""

from __future__ import annotations

from typing import Any

import pytest

from cermet.anatomy import layer_count_keys, per_layer_lists
from tests.anatomy.families import CLASSES, saved
from tests.anatomy.table import table

_COUNT = "num_hidden_layers"
# The families whose layers a config does not count as the tables do: ConvNeXt's stages.
_UNCOUNTED = {"convnext"}


def _at(config: Any, path: tuple[str, ...]) -> Any:
    for step in path:
        config = config.get(step)
    return config


@pytest.mark.parametrize("family", sorted(set(CLASSES) - _UNCOUNTED))
def test_the_number_of_layers_stands_where_every_family_has_it(family: str) -> None:
    config = saved(family).config
    expected = table()[family]
    paths = layer_count_keys(config)
    assert paths
    assert {_at(config, path) for path in paths} == {expected.stacks[expected.main]}


def test_no_other_family_is_without_one() -> None:
    assert [f for f in CLASSES if not layer_count_keys(saved(f).config)] == sorted(_UNCOUNTED)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({_COUNT: 3}, [(_COUNT,)]),
        ({"n_layer": 3}, [("n_layer",)]),  # GPT-2
        ({"n_layers": 3}, [("n_layers",)]),  # MPT, DistilBERT
        ({"num_layers": 4}, [("num_layers",)]),  # GPT-Neo
        ({"num_layers": 3, "is_encoder_decoder": True}, [("num_decoder_layers",)]),  # T5
        (
            {"num_layers": 3, "num_decoder_layers": 2, "is_encoder_decoder": True},
            [("num_decoder_layers",)],
        ),
        (  # T5 as transformers writes it: both
            {"num_layers": 3, "num_decoder_layers": None, "is_encoder_decoder": True},
            [("num_decoder_layers",)],
        ),
        (  # Whisper, BART: the plain number is the encoder's
            {_COUNT: 2, "encoder_layers": 2, "decoder_layers": 3, "is_encoder_decoder": True},
            [("decoder_layers",)],
        ),
        ({"text_config": {_COUNT: 3}, "vision_config": {_COUNT: 2}}, [("text_config", _COUNT)]),
        (  # Qwen2-VL says it twice
            {_COUNT: 3, "text_config": {_COUNT: 3}},
            [("text_config", _COUNT), (_COUNT,)],
        ),
        ({_COUNT: 2, "text_config": {_COUNT: 3}}, [("text_config", _COUNT)]),
        ({"n_layer": 3, _COUNT: 3}, [(_COUNT,), ("n_layer",)]),  # both have to be set
        ({_COUNT: 12, "num_hidden_groups": 1}, [("num_hidden_groups",)]),  # ALBERT
        (
            {"thinker_config": {"text_config": {_COUNT: 3}}},
            [("thinker_config", "text_config", _COUNT)],
        ),
        ({}, []),
        ({_COUNT: None}, []),
        ({_COUNT: True}, []),
        ({_COUNT: "3"}, []),
        ({_COUNT: 0}, []),
        ({_COUNT: -1}, []),
        ({"text_config": 3, _COUNT: 2}, [(_COUNT,)]),
    ],
)
def test_the_keys_that_hold_the_number(config: dict[str, Any], expected: list[Any]) -> None:
    assert list(layer_count_keys(config)) == expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"layer_types": ["a", "b", "a"]}, ["layer_types"]),  # Gemma 3, Qwen3-Next
        ({"layers_block_type": ["m", "a", "m"]}, ["layers_block_type"]),  # Zamba
        ({"no_rope_layers": [1, 1, 0]}, ["no_rope_layers"]),  # SmolLM3: 0 or 1 for each
        ({"attention_layers": ["global", "local", "global"]}, ["attention_layers"]),  # GPT-Neo
        ({"intermediate_size": [8, 8, 16]}, ["intermediate_size"]),  # Gemma 3n
        ({"num_kv_heads": [1, 2, 3]}, ["num_kv_heads"]),  # OpenELM: counts, although they rise
        ({"mlp_only_layers": [0, 1, 2]}, []),  # numbers of layers, not one entry for each
        ({"full_attention_layers": [3, 5, 7]}, []),
        ({"layer_types": ["a", "b"]}, []),  # another length
        ({"eos_token_id": [1, 2, 3]}, []),  # three by chance
        ({"mrope_section": [16, 24, 24]}, []),
        ({"architectures": ["A", "B", "C"]}, []),
        ({"layer_types": "abc"}, []),
        ({"layer_types": None}, []),
    ],
)
def test_the_lists_with_an_entry_for_each_layer(
    config: dict[str, Any], expected: list[str]
) -> None:
    assert per_layer_lists(config, 3) == tuple((key,) for key in expected)


def test_lists_are_found_in_the_text_part_and_beside_it_but_in_no_other() -> None:
    kinds = ["a", "b", "a"]
    config = {
        "layer_types": kinds,
        "text_config": {"layer_types": kinds},
        "vision_config": {"layer_types": kinds},
    }
    assert per_layer_lists(config, 3) == (("text_config", "layer_types"), ("layer_types",))


def test_no_layers_have_no_lists() -> None:
    assert per_layer_lists({"layer_types": []}, 0) == ()


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text", "gemma3n_text", "qwen3_next", "lfm2"])
def test_kinds_of_layers_are_listed_in_the_file_of_a_hybrid(family: str) -> None:
    assert ("layer_types",) in per_layer_lists(saved(family).config, 3)


def test_kinds_of_layers_are_listed_for_the_language_model_of_gemma_3() -> None:
    assert per_layer_lists(saved("gemma3").config, 3) == (("text_config", "layer_types"),)
