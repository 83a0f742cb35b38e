"""The loss of a model on texts: transformers' own, whatever the batch, with any weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from cermet.core.errors import InputError
from cermet.inference.texts import Example, TextModel
from tests.learn.pools import token_ids, write_tokenizer
from tests.recipes.pools import save_llama

_ONE = torch.ones(())
_TEXTS = ["the cat", "some dog ran in deep snow", "mat", "on a mat the cat sat"]


@pytest.fixture(scope="module")
def llama(llamas: list[str]) -> Path:
    return Path(llamas[0])


@pytest.fixture(scope="module")
def bert(berts: list[str]) -> Path:
    return Path(berts[1])


def test_a_language_model_has_transformers_loss(llama: Path) -> None:
    model = TextModel(llama, labelled=False, longest=16)
    plain = transformers.AutoModelForCausalLM.from_pretrained(llama).eval()
    found = model.losses([Example(t) for t in _TEXTS], model.weights(), _ONE)
    total, right = 0.0, 0
    for text in _TEXTS:
        ids = torch.tensor([token_ids(text)])
        with torch.no_grad():
            out = plain(input_ids=ids, labels=ids)
        if ids.shape[1] > 1:
            total += float(out.loss) * (ids.shape[1] - 1)
        right += int((out.logits[0, :-1].argmax(-1) == ids[0, 1:]).sum())
    assert found.count == sum(len(token_ids(t)) - 1 for t in _TEXTS)
    assert found.right == right
    assert float(found.total) == pytest.approx(total, rel=1e-5)


def test_a_classifier_has_transformers_loss(bert: Path) -> None:
    model = TextModel(bert, labelled=True, longest=16)
    plain = transformers.AutoModelForSequenceClassification.from_pretrained(bert).eval()
    examples = [Example(t, label) for t, label in zip(_TEXTS, ("cat", 1, 0, "dog"), strict=True)]
    found = model.losses(examples, model.weights(), _ONE)
    total = 0.0
    for text, label in zip(_TEXTS, (0, 1, 0, 1), strict=True):
        ids = torch.tensor([token_ids(text)])
        with torch.no_grad():
            total += float(plain(input_ids=ids, labels=torch.tensor([label])).loss)
    assert found.count == 4
    assert float(found.total) == pytest.approx(total, rel=1e-5)


def test_other_weights_and_the_scale_are_used(llama: Path) -> None:
    model = TextModel(llama, labelled=False, longest=16)
    weights = model.weights()
    example = [Example(_TEXTS[1])]
    zero = {**weights, "lm_head.weight": torch.zeros_like(weights["lm_head.weight"])}
    guess = model.losses(example, zero, _ONE)
    assert float(guess.total) / guess.count == pytest.approx(float(torch.tensor(14.0).log()))
    scaled = model.losses(example, weights, torch.tensor(0.0))
    assert float(scaled.total) == pytest.approx(float(guess.total))
    double = {**weights, "lm_head.weight": 2 * weights["lm_head.weight"]}
    assert float(model.losses(example, double, _ONE).total) == pytest.approx(
        float(model.losses(example, weights, torch.tensor(2.0)).total), rel=1e-5
    )


def test_long_texts_are_cut_and_a_lone_token_counts_nothing(llama: Path) -> None:
    model = TextModel(llama, labelled=False, longest=3)
    assert model.losses([Example(_TEXTS[1])], model.weights(), _ONE).count == 2
    lone = model.losses([Example("mat")], model.weights(), _ONE)
    assert (float(lone.total), lone.count, lone.right) == (0.0, 0, 0)


@pytest.mark.parametrize("label", ["cow", 2, -1])
def test_a_label_that_the_model_has_not(bert: Path, label: Any) -> None:
    model = TextModel(bert, labelled=True, longest=8)
    with pytest.raises(InputError, match=r"is none of .*: cat, dog\."):
        model.target(Example("a", label))


def test_what_cannot_be_asked_for_a_label(tmp_path: Path) -> None:
    for name, changes in {"one": {"num_labels": 1}, "none": {"pad_token_id": None}}.items():
        config = transformers.BertConfig(
            vocab_size=14, hidden_size=8, intermediate_size=8, num_attention_heads=2,
            num_hidden_layers=1, **changes,
        )  # fmt: skip
        transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / name)
        write_tokenizer(tmp_path / name, pad=None)
    with pytest.raises(InputError, match="does not choose one of several"):
        TextModel(tmp_path / "one", labelled=True, longest=8)
    with pytest.raises(InputError, match="names no padding token"):
        TextModel(tmp_path / "none", labelled=True, longest=8)


def test_a_tokenizer_with_more_tokens_than_the_model(tmp_path: Path) -> None:
    folder = Path(save_llama(tmp_path / "small"))
    write_tokenizer(folder, ["[UNK]", "[PAD]", *(f"w{i}" for i in range(60))])
    model = TextModel(folder, labelled=False, longest=8)
    with pytest.raises(InputError, match="gives token 50, but the model knows 40"):
        model.losses([Example("w1 w48")], model.weights(), _ONE)
