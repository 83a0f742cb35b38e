"""Every kind of task, held to what transformers gives one example at a time."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from cermet.core.errors import CermetError, FormatError, InputError, MismatchError, NonFiniteError
from cermet.evaluate.evaluator import Evaluator
from cermet.inference.encoder import Encoder
from cermet.recipes.pool import read_pool
from tests.evaluate import models
from tests.evaluate.models import BEGIN, END, byte_ids


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool of language models with a task of each kind, and encoders beside it."""
    root = tmp_path_factory.mktemp("pool")
    models.save_llama(root / "base", 0)
    models.save_llama(root / "expert", 1)
    models.save_llama(root / "no-begin", 0, begin=False)
    models.save_bert(root / "bert", 0)
    models.save_bert(root / "classifier", 0, head="ForSequenceClassification", num_labels=3)
    models.save_vit(root / "vit", 0)
    models.save_bytes(models.save_vit(root / "read-vit", 0))
    models.write_pool(
        root,
        {k: k for k in ("embed", "images", "classify", "likelihood", "generate", "choose")},
    )
    return root


@pytest.fixture(scope="module")
def evaluator(root: Path) -> Evaluator:
    return Evaluator(read_pool(root).tasks, threads=1)


def _rows(root: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / f"{name}.jsonl").read_text().splitlines()]


def _nats(model: Any, ids: list[int]) -> torch.Tensor:
    """Of each token but the first, from one forward pass over one text."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    return -logits.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


def test_bits_are_those_of_transformers(root: Path, evaluator: Evaluator) -> None:
    found = evaluator.outcomes(root / "base", "likelihood", "test")
    plain = transformers.AutoModelForCausalLM.from_pretrained(root / "base").eval()
    rows = [row["text"] for row in _rows(root, "likelihood")]
    wanted = [float(_nats(plain, [BEGIN, *byte_ids(t)]).sum()) / math.log(2) for t in rows]
    assert found.scores == pytest.approx(wanted, rel=1e-5)
    assert found.sizes.tolist() == [len(t) for t in rows]
    assert set(found.answers.tolist()) == {-1}
    assert found.value == pytest.approx(sum(wanted) / sum(map(len, rows)), rel=1e-5)
    assert found.tokens == sum(map(len, rows))


def test_without_a_token_to_begin_with_the_first_is_not_counted(
    root: Path, evaluator: Evaluator
) -> None:
    found = evaluator.outcomes(root / "no-begin", "likelihood", "test")
    plain = transformers.AutoModelForCausalLM.from_pretrained(root / "no-begin").eval()
    wanted = [
        float(_nats(plain, byte_ids(row["text"])).sum()) / math.log(2)
        for row in _rows(root, "likelihood")
    ]
    assert found.scores == pytest.approx(wanted, rel=1e-5, abs=1e-6)


def test_what_is_written_is_what_generate_writes(root: Path, evaluator: Evaluator) -> None:
    rows = _rows(root, "generate")
    plain = transformers.AutoModelForCausalLM.from_pretrained(root / "base").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(root / "base")
    hashes = []
    for row in rows:
        ids = torch.tensor([[BEGIN, *byte_ids(row["prompt"])]])
        out = plain.generate(ids, do_sample=False, max_new_tokens=6, eos_token_id=END)
        text = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        digest = hashlib.sha256(text.split("\n")[0].strip().encode()).digest()[:8]
        hashes.append(int.from_bytes(digest, "little", signed=True))
    found = evaluator.outcomes(root / "base", "generate", "test")
    assert found.answers.tolist() == hashes
    assert len(set(hashes)) > 1
    assert set(found.scores.tolist()) == {0.0}


def test_an_answer_is_right_when_it_is_what_the_model_writes(tmp_path: Path) -> None:
    """The answers are the model's own, but for one, and stand as trained: with a line's end."""
    models.save_llama(tmp_path / "base", 5)
    models.write_pool(tmp_path, {"say": "generate"})
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "base")
    rows = []
    for prompt in models.texts(40, 1):
        ids = torch.tensor([[BEGIN, *byte_ids(prompt)]])
        out = plain.generate(ids, do_sample=False, max_new_tokens=6, eos_token_id=END)
        text = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).split("\n")[0]
        if text.strip():
            rows.append({"prompt": prompt, "answer": f"{text.strip()}\n"})
    assert len(rows) > 10
    rows[3]["answer"] += " not this"
    rows[3]["answer"] = rows[3]["answer"].replace("\n", "")
    models.write_lines(tmp_path / "say.jsonl", rows)
    found = Evaluator(read_pool(tmp_path).tasks).outcomes(tmp_path / "base", "say", "test")
    assert found.scores.tolist() == [float(i != 3) for i in range(len(rows))]


def test_an_option_is_chosen_by_likelihood_a_character(root: Path, evaluator: Evaluator) -> None:
    found = evaluator.outcomes(root / "base", "choose", "test")
    plain = transformers.AutoModelForCausalLM.from_pretrained(root / "base").eval()
    for row, answer, score in zip(_rows(root, "choose"), found.answers, found.scores, strict=True):
        prompt = byte_ids(row["prompt"].rstrip(" "))
        costs = []
        for option in row["options"]:
            nats = _nats(plain, [BEGIN, *byte_ids(row["prompt"] + option)][-33:])
            kept = len(byte_ids(row["prompt"] + option)) - len(prompt)
            costs.append(float(nats[-kept:].sum()) / len(option))
        assert answer == int(np.argmin(costs))
        assert score == float(answer == row["answer"])


def test_labels_are_those_of_the_classifier(root: Path, evaluator: Evaluator) -> None:
    found = evaluator.outcomes(root / "classifier", "classify", "test")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(root / "classifier")
    wanted = []
    for row in _rows(root, "classify"):
        ids = torch.tensor([[BEGIN, *byte_ids(row["text"]), END]])
        with torch.no_grad():
            wanted.append(int(model.eval()(input_ids=ids).logits.argmax()))
    assert found.answers.tolist() == wanted
    right = [
        float(w == row["label"]) for w, row in zip(wanted, _rows(root, "classify"), strict=True)
    ]
    assert found.scores.tolist() == right
    assert 0 < sum(right) < len(right)


def test_a_text_gets_the_label_of_the_nearest_row(root: Path, evaluator: Evaluator) -> None:
    found = evaluator.outcomes(root / "bert", "embed", "test")
    rows = _rows(root, "embed")
    head = load_file(root / "embed.head.safetensors")["head"]
    vectors = Encoder(root / "bert").embed([r["text"] for r in rows])
    cosines = torch.nn.functional.cosine_similarity(vectors[:, None], head[None], dim=-1)
    right = cosines.argmax(1) == torch.tensor([r["label"] for r in rows])
    assert found.value == int(right.sum()) / len(rows)
    assert len(set(found.answers.tolist())) > 1


def test_images_go_through_the_head(root: Path, evaluator: Evaluator) -> None:
    found = evaluator.outcomes(root / "vit", "images", "test")
    held, head = load_file(root / "images.safetensors"), load_file(root / "images.head.safetensors")
    model = transformers.ViTModel.from_pretrained(root / "vit", add_pooling_layer=False).eval()
    with torch.no_grad():
        hidden = model(pixel_values=held["images"].float() / 255 * 2 - 1).last_hidden_state[:, 0]
    wanted = (hidden @ head["weight"].T + head["bias"]).argmax(1)
    assert found.answers.tolist() == wanted.tolist()
    assert found.scores.tolist() == (wanted == held["labels"]).float().tolist()
    assert found.tokens == 0


@pytest.mark.parametrize(
    ("model", "task"),
    [("base", "likelihood"), ("base", "generate"), ("base", "choose"), ("bert", "embed"),
     ("classifier", "classify"), ("vit", "images")],
)  # fmt: skip
def test_a_limit_takes_the_first_and_gives_them_the_same(
    model: str, task: str, root: Path, evaluator: Evaluator
) -> None:
    told = list[tuple[int, int]]()
    whole = evaluator.outcomes(root / model, task, "test", tick=lambda *done: told.append(done))
    few = evaluator.outcomes(root / model, task, "validation", 5)
    assert few.answers.tolist() == whole.answers[:5].tolist()
    assert few.scores == pytest.approx(whole.scores[:5], rel=1e-5)
    assert told[-1][0] == told[-1][1] >= len(whole) == 24


def test_one_module_for_many_models_gives_what_each_gives_alone(
    root: Path, evaluator: Evaluator
) -> None:
    for name in ("base", "expert", "base"):
        alone = Evaluator(read_pool(root).tasks).outcomes(root / name, "likelihood", "test")
        found = evaluator.outcomes(root / name, "likelihood", "test")
        assert found.scores.tolist() == alone.scores.tolist()


def test_a_model_that_was_written_anew_is_read_anew(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "base", tmp_path / "model")
    evaluator = Evaluator(read_pool(root).tasks)
    before = evaluator.outcomes(tmp_path / "model", "likelihood", "test")
    shutil.copyfile(root / "expert" / "model.safetensors", tmp_path / "new")
    (tmp_path / "new").replace(tmp_path / "model" / "model.safetensors")
    after = evaluator.outcomes(tmp_path / "model", "likelihood", "test")
    expert = evaluator.outcomes(root / "expert", "likelihood", "test")
    assert after.scores.tolist() == expert.scores.tolist() != before.scores.tolist()


@pytest.mark.parametrize(
    ("model", "task", "kind", "says"),
    [
        ("bert", "likelihood", InputError, "is not a whole causal language model: it lacks"),
        ("vit", "likelihood", InputError, r"\(vit\) cannot be run as a causal language model"),
        ("vit", "embed", InputError, "holds no tokenizer"),
        ("read-vit", "embed", InputError, r"read-vit' \(ViTModel\) reads no texts"),
        ("bert", "images", InputError, "is no encoder of images"),
        ("bert", "classify", InputError, "lacks 'classifier"),
        ("nowhere", "embed", InputError, "nowhere': No such file"),
        ("base", "likelyhood", InputError, "no task 'likelyhood'. Did you mean 'likelihood'"),
    ],
)
def test_a_model_that_cannot_do_the_task(
    model: str, task: str, kind: type[CermetError], says: str, root: Path, evaluator: Evaluator
) -> None:
    with pytest.raises(kind, match=says):
        evaluator.outcomes(root / model, task, "test")


def test_a_masked_language_model_is_no_causal_one(root: Path, tmp_path: Path) -> None:
    models.save_bert(tmp_path / "masked", head="ForMaskedLM")
    with pytest.raises(InputError, match="looks at the tokens to come"):
        Evaluator(read_pool(root).tasks).outcomes(tmp_path / "masked", "likelihood", "test")


def test_a_head_of_another_width(root: Path, tmp_path: Path) -> None:
    models.save_bert(tmp_path / "wide", hidden_size=32)
    with pytest.raises(MismatchError, match=r"width 16; those of .* have 32"):
        Evaluator(read_pool(root).tasks).outcomes(tmp_path / "wide", "embed", "test")


def test_images_of_another_size(root: Path, tmp_path: Path) -> None:
    models.save_vit(tmp_path / "base")
    models.write_pool(tmp_path, {"see": "images"})
    held = load_file(tmp_path / "see.safetensors")
    small = {**held, "images": held["images"][:, :, :4].contiguous()}
    save_file(small, tmp_path / "see.safetensors")
    with pytest.raises(InputError, match="takes images of 3 x 8 x 8, not 3 x 4 x 8"):
        Evaluator(read_pool(tmp_path).tasks).outcomes(tmp_path / "base", "see", "test")


def test_a_label_that_the_classifier_has_not(root: Path, tmp_path: Path) -> None:
    models.save_bert(tmp_path / "two", head="ForSequenceClassification", num_labels=2)
    with pytest.raises(MismatchError, match=r"label 2, but .* has 2 labels"):
        Evaluator(read_pool(root).tasks).outcomes(tmp_path / "two", "classify", "test")


@pytest.mark.parametrize("task", ["likelihood", "generate", "choose"])
def test_a_model_of_nan_is_refused(task: str, root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "base", tmp_path / "broken")
    weights = load_file(tmp_path / "broken" / "model.safetensors")
    weights["model.norm.weight"][3] = float("nan")
    save_file(weights, tmp_path / "broken" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NonFiniteError, match="broken' gives NaN"):
        Evaluator(read_pool(root).tasks).outcomes(tmp_path / "broken", task, "test")


def test_more_tokens_than_positions_are_refused(root: Path, tmp_path: Path) -> None:
    models.save_llama(tmp_path / "short", max_position_embeddings=6)
    with pytest.raises(InputError, match="writes 6 tokens, but the model has 6 positions"):
        Evaluator(read_pool(root).tasks).outcomes(tmp_path / "short", "generate", "test")


def test_a_damaged_model_is_refused_and_the_next_one_runs(root: Path, tmp_path: Path) -> None:
    evaluator = Evaluator(read_pool(root).tasks)
    wanted = evaluator.outcomes(root / "base", "likelihood", "test")
    shutil.copytree(root / "expert", tmp_path / "damaged")
    weights = tmp_path / "damaged" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(FormatError):
        evaluator.outcomes(tmp_path / "damaged", "likelihood", "test")
    again = evaluator.outcomes(root / "base", "likelihood", "test")
    assert again.scores.tolist() == wanted.scores.tolist()


def test_a_limit_below_one(root: Path, evaluator: Evaluator) -> None:
    with pytest.raises(InputError, match="limit is 0"):
        evaluator.outcomes(root / "base", "likelihood", "test", 0)
