"""Which tensors have a row for each token, and where a config counts them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from cermet.anatomy import survey, token_tensors, vocabulary_keys

_BERT = {
    "bert.embeddings.word_embeddings.weight": (50, 8),
    "bert.embeddings.position_embeddings.weight": (64, 8),
    "bert.embeddings.token_type_embeddings.weight": (2, 8),
    "bert.encoder.layer.0.attention.self.query.weight": (8, 8),
    "cls.predictions.bias": (50,),
    "cls.predictions.decoder.weight": (50, 8),
    "cls.predictions.decoder.bias": (50,),
    "cls.predictions.transform.dense.weight": (8, 8),
}
_BART = {
    "final_logits_bias": (1, 50),
    "model.shared.weight": (50, 8),
    "model.encoder.embed_tokens.weight": (50, 8),
    "model.encoder.layers.0.fc1.weight": (16, 8),
    "model.decoder.layers.0.fc1.weight": (16, 8),
}
_ODD = {
    "model.embed_tokens.weight": (50, 8),
    "model.layers.0.mlp.up_proj.weight": (16, 8),
    "lm_head.weight": (64, 8),
}


@pytest.mark.parametrize(
    ("shapes", "names", "odd"),
    [
        (
            _BERT,
            {
                "bert.embeddings.word_embeddings.weight",
                "cls.predictions.bias",
                "cls.predictions.decoder.weight",
                "cls.predictions.decoder.bias",
            },
            (),
        ),
        (
            _BART,
            {
                "final_logits_bias",
                "model.shared.weight",
                "model.encoder.embed_tokens.weight",
            },
            (),
        ),
        (_ODD, {"model.embed_tokens.weight"}, ("lm_head.weight",)),
    ],
)
def test_tensors_with_a_row_for_each_token(
    shapes: Mapping[str, tuple[int, ...]], names: set[str], odd: tuple[str, ...]
) -> None:
    found = token_tensors(survey(shapes, {}))
    assert found is not None
    assert (found.rows, set(found.names), found.odd) == (50, names, odd)


def test_a_model_without_text_has_none() -> None:
    shapes = {"vision.layers.0.mlp.fc1.weight": (8, 8), "classifier.weight": (10, 8)}
    assert token_tensors(survey(shapes, {})) is None


@pytest.mark.parametrize(
    ("config", "keys"),
    [
        ({"vocab_size": 5}, [("vocab_size",)]),
        (
            {"vocab_size": 5, "text_config": {"vocab_size": 5}},
            [("vocab_size",), ("text_config", "vocab_size")],
        ),
        (
            {"text_config": {"vocab_size": 5}, "vision_config": {"vocab_size": 9}},
            [("text_config", "vocab_size")],
        ),
        ({}, []),
    ],
)
def test_fields_that_count_the_rows(config: dict[str, Any], keys: list[tuple[str, ...]]) -> None:
    assert list(vocabulary_keys(config)) == keys
