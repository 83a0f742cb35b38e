"""Tensors that share storage: what a file leaves out is known, and what is apart stays apart."""

from __future__ import annotations

from typing import Any

import pytest

from cermet.anatomy import survey
from tests.anatomy.families import CLASSES, saved, specimen
from tests.anatomy.table import table

Shapes = dict[str, tuple[int, ...]]

_EMBED = "model.embed_tokens.weight"
_LAYER: Shapes = {"model.layers.0.mlp.up_proj.weight": (6, 4), "model.layers.0.norm.weight": (4,)}
_LLAMA: Shapes = {_EMBED: (8, 4), **_LAYER}
_HEAD: Shapes = {"lm_head.weight": (8, 4)}
_TIED = ((_EMBED, "lm_head.weight"),)
# Families whose file alone does not tell what their class ties: other spellings of the head that
# the same names may stand for (blip2 by one of its language models; ESM has no second bias).
_MORE = {"blip2": {"lm_head.weight"}, "esm": {"lm_head.decoder.bias"}}
_RESPELT = sorted(name for name in CLASSES if f"{name}, saved" in table())


def _ties(shapes: Shapes, **config: Any) -> tuple[tuple[str, ...], ...]:
    return survey(shapes, config).ties


def _left_out(family: str) -> set[str]:
    """The names of ties that a saved file does not hold."""
    given = saved(family)
    return {n for group in _ties(given.shapes, **given.config) for n in group} - set(given.shapes)


@pytest.mark.parametrize("family", sorted(set(CLASSES) - set(_RESPELT)))
def test_what_a_saved_file_leaves_out_is_a_tie(family: str) -> None:
    dropped = set(specimen(family).shapes) - set(saved(family).shapes)
    assert _left_out(family) == dropped | _MORE.get(family, set())


@pytest.mark.parametrize("family", _RESPELT)
def test_a_family_that_is_respelt_implies_a_head_only_where_it_is_tied(family: str) -> None:
    tied = {
        "paligemma": {"language_model.lm_head.weight", "lm_head.weight"},
        "gemma3": {"language_model.lm_head.weight", "lm_head.weight"},
        "internvl": {"language_model.lm_head.weight", "lm_head.weight"},
        "esm": {"lm_head.decoder.weight", "lm_head.decoder.bias"},
    }
    assert _left_out(family) == tied.get(family, set())


@pytest.mark.parametrize("family", sorted(set(CLASSES) - set(_RESPELT)))
def test_with_every_name_there_the_ties_hold_what_saving_drops(family: str) -> None:
    given, kept = specimen(family), set(saved(family).shapes)
    groups = [set(group) & set(given.shapes) for group in _ties(given.shapes, **given.config)]
    assert {name for group in groups for name in group - kept} == set(given.shapes) - kept
    assert all(len(group & kept) == 1 for group in groups)


@pytest.mark.parametrize(
    ("shapes", "config", "expected"),
    [
        pytest.param(_LLAMA, {"tie_word_embeddings": True}, _TIED, id="said and left out"),
        pytest.param(_LLAMA | _HEAD, {"tie_word_embeddings": True}, _TIED, id="said and stored"),
        pytest.param(_LLAMA | _HEAD, {"tie_word_embeddings": False}, (), id="denied and stored"),
        pytest.param(_LLAMA, {"tie_word_embeddings": False}, (), id="denied and left out"),
        pytest.param(_LLAMA, {}, _TIED, id="no word, no head"),
        pytest.param(_LLAMA | _HEAD, {}, (), id="no word, a head"),
        pytest.param(_LLAMA, {"tie_word_embeddings": "yes"}, _TIED, id="nonsense, no head"),
        pytest.param(_LLAMA, {"architectures": ["LlamaModel"]}, (), id="a bare model has no head"),
        pytest.param(_LLAMA, {"architectures": ["LlamaForCausalLM"]}, _TIED, id="a language model"),
        pytest.param(_LLAMA, {"architectures": 5}, _TIED, id="nonsense instead of a class"),
        pytest.param(_LLAMA | {"score.weight": (2, 4)}, {}, (), id="a classifier instead"),
        pytest.param(_LAYER, {"tie_word_embeddings": True}, (), id="nothing to share"),
        pytest.param(
            _LLAMA | {"lm_head.weight": (9, 4)},
            {"tie_word_embeddings": True},
            (),
            id="shapes that differ are not one tensor",
        ),
    ],
)
def test_the_config_decides_and_the_file_where_it_is_silent(
    shapes: Shapes, config: dict[str, Any], expected: tuple[tuple[str, ...], ...]
) -> None:
    assert _ties(shapes, **config) == expected


def test_the_whole_models_word_goes_before_its_text_parts() -> None:
    outer, inner = {"tie_word_embeddings": False}, {"tie_word_embeddings": True}
    assert _ties(_LLAMA | _HEAD, text_config=inner) == _TIED
    assert _ties(_LLAMA | _HEAD, **outer, text_config=inner) == ()


def test_a_stored_name_stands_first() -> None:
    head_only = {"lm_head.weight": (8, 4), **_LAYER}
    assert _ties(head_only, tie_word_embeddings=True) == ()
    t5: Shapes = {
        "decoder.embed_tokens.weight": (8, 4),
        "shared.weight": (8, 4),
        "encoder.block.0.layer.0.SelfAttention.q.weight": (4, 4),
        "decoder.block.0.layer.0.SelfAttention.q.weight": (4, 4),
    }
    assert _ties(t5, tie_word_embeddings=False) == (
        ("shared.weight", "decoder.embed_tokens.weight", "encoder.embed_tokens.weight"),
    )


def test_t5_shares_its_embedding_even_where_the_head_is_apart() -> None:
    """T5 1.1 and Flan-T5: an untied head beside one embedding for both stacks."""
    t5: Shapes = {
        "shared.weight": (8, 4),
        "encoder.block.0.layer.0.SelfAttention.q.weight": (4, 4),
        "decoder.block.0.layer.0.SelfAttention.q.weight": (4, 4),
        "lm_head.weight": (8, 4),
    }
    assert _ties(t5, tie_word_embeddings=False, architectures=["T5ForConditionalGeneration"]) == (
        ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"),
    )


@pytest.mark.parametrize("order", [1, -1])
def test_where_encoder_and_decoder_embed_apart_the_head_is_the_decoders(order: int) -> None:
    """Marian models of two vocabularies."""
    shapes: Shapes = {
        "model.encoder.embed_tokens.weight": (8, 4),
        "model.decoder.embed_tokens.weight": (8, 4),
        "model.encoder.layers.0.fc1.weight": (6, 4),
        "model.decoder.layers.0.fc1.weight": (6, 4),
        "lm_head.weight": (8, 4),
    }
    shapes = dict(list(shapes.items())[::order])
    (group,) = _ties(shapes, tie_word_embeddings=True)
    assert set(group) == {"model.decoder.embed_tokens.weight", "lm_head.weight"}


def test_an_encoder_alone_has_no_copy_for_a_decoder() -> None:
    t5: Shapes = {
        "shared.weight": (8, 4),
        "encoder.block.0.layer.0.SelfAttention.q.weight": (4, 4),
        "encoder.block.0.layer.0.layer_norm.weight": (4,),
    }
    config = {"architectures": ["T5EncoderModel"], "tie_word_embeddings": False}
    assert _ties(t5, **config) == (("shared.weight", "encoder.embed_tokens.weight"),)


@pytest.mark.parametrize(
    ("stored", "weight"),
    [
        ("language_model.model", "language_model.lm_head.weight"),
        ("model.language_model", "lm_head.weight"),
    ],
)
def test_llava_has_its_head_where_its_spelling_puts_it(stored: str, weight: str) -> None:
    shapes: Shapes = {
        f"{stored}.embed_tokens.weight": (8, 4),
        f"{stored}.layers.0.mlp.up_proj.weight": (6, 4),
        f"{stored}.layers.0.norm.weight": (4,),
        "vision_tower.vision_model.embeddings.position_embedding.weight": (8, 4),
    }
    (group,) = _ties(shapes, text_config={"tie_word_embeddings": True})
    assert group[:2] == (f"{stored}.embed_tokens.weight", weight)
    assert _ties(shapes | {weight: (8, 4)}, text_config={"tie_word_embeddings": False}) == ()


def test_a_bias_of_bert_is_one_with_its_decoders() -> None:
    shapes: Shapes = {
        "bert.embeddings.word_embeddings.weight": (8, 4),
        "bert.encoder.layer.0.output.dense.weight": (4, 4),
        "bert.encoder.layer.0.output.dense.bias": (4,),
        "cls.predictions.bias": (8,),
    }
    assert _ties(shapes, tie_word_embeddings=True) == (
        ("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),
        ("cls.predictions.bias", "cls.predictions.decoder.bias"),
    )


def test_a_bias_of_a_head_of_its_own_is_shared_with_nothing() -> None:
    """Phi and GPT-J: lm_head.weight and lm_head.bias, and no lm_head.decoder."""
    shapes = _LLAMA | _HEAD | {"lm_head.bias": (8,)}
    assert _ties(shapes, tie_word_embeddings=False) == ()


def test_embeddings_of_images_are_not_the_languages() -> None:
    shapes = {"vision_tower.embeddings.word_embeddings.weight": (8, 4)} | _LLAMA
    assert _ties(shapes, tie_word_embeddings=True) == _TIED
