"""lm-evaluation-harness on a small decoder, beside our own evaluator, without a network."""

from __future__ import annotations

import json
import logging
import math
import os
import random
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

pytest.importorskip("transformers")

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from cermet.core.errors import InputError, MachineError
from cermet.evaluate.evaluator import Evaluator
from cermet.evaluate.harness import harness
from cermet.evaluate.harness_tasks import METRIC_OF, write_task
from cermet.recipes.pool import Task

LONGEST = 48
BEGIN, END = "<bos>", "<eos>"


def _tokenizer(folder: Path, *, adds_begin: bool) -> Tokenizer:
    names = ["<pad>", BEGIN, END, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({n: i for i, n in enumerate(names)}, []))
    tokenizer.add_special_tokens(names[:3])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if adds_begin:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BEGIN} $A", special_tokens=[(BEGIN, 1)]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": LONGEST,
        "pad_token": "<pad>",
        "bos_token": BEGIN,
        "eos_token": END,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return tokenizer


def _model(folder: Path, *, adds_begin: bool = True, poison: bool = False) -> Path:
    """A decoder of random weights, far apart, that likes to write spaces and to end lines."""
    folder.mkdir()
    tokenizer = _tokenizer(folder, adds_begin=adds_begin)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LONGEST,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    torch.manual_seed(3)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for sign in ("Ċ", "Ġ"):  # a line's end and a space, as bytes are spelled
            model.lm_head.weight[tokenizer.token_to_id(sign)] *= 2.5
        if poison:
            model.lm_head.weight[7] = float("nan")
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _model(tmp_path_factory.mktemp("harness") / "model")


TEXTS = ["One text.", "Zwölf Bäume – ganz grün", "2020-01-01", "x", "line\n" * 30, " <bos> apart"]
PROMPTS = [f"{a}{b}->" for a in ("ab", "c", "def ", "2020") for b in ("x", "yz", " ", "é", "Q\n")]


def _choices() -> list[dict[str, Any]]:
    """Questions whose prompts end in all manners, some of them longer than the model reads."""
    draw = random.Random(0)

    def some(most: int) -> str:
        return "".join(draw.choice("abcdé ") for _ in range(draw.randrange(1, most)))

    return [
        {
            "prompt": some(60) + end,
            "options": [some(9), some(9), f" {some(9)}"],
            "answer": draw.randrange(3),
        }
        for end in ["", "z", " ", "  ", "\n", "?\t"] * 20
    ] + [{"prompt": " ", "options": ["2020-01-01", "1"], "answer": 0}]


PROMPTS = [f"{a}{b}->" for a in ("ab", "c", "def ", "2020") for b in ("x", "yz", " ", "é", "Q\n")]


def _task(folder: Path, kind: str, rows: list[Any], name: str = "") -> Task:
    name = name or kind
    path = folder / f"{name}.jsonl"
    path.write_text("\n\n".join(map(json.dumps, rows)) + "\n")
    return Task(name, kind, {"validation": path, "test": path}, None, None, 6)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory, decoder: Path) -> list[Task]:
    folder = tmp_path_factory.mktemp("tasks")
    plain = [{"prompt": p, "answer": "none"} for p in PROMPTS]
    return [
        _task(folder, "likelihood", [{"text": t} for t in TEXTS]),
        _task(folder, "choose", _choices()),
        _task(folder, "generate", _answered(decoder, plain)),
    ]


def _answered(folder: Path, rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Every second prompt with what the model writes after it as its answer."""
    model = LlamaForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for row in rows[::2]:
        asked = tokenizer(row["prompt"], return_tensors="pt")
        found = model.generate(**asked, max_new_tokens=6, do_sample=False)
        text = tokenizer.decode(found[0, asked["input_ids"].shape[1] :], skip_special_tokens=True)
        row["answer"] = f" {text.partition(chr(10))[0].strip() or 'none'}\n"
    return rows


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> Any:
        raise OSError("no network in tests")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)


@pytest.mark.parametrize("adds_begin", [True, False])
def test_numbers_are_those_of_our_own_evaluator(
    adds_begin: bool, tasks: list[Task], tmp_path: Path
) -> None:
    model = _model(tmp_path / "model", adds_begin=adds_begin)
    own = Evaluator(tasks)
    for task in tasks:
        write_task(task, "test", tmp_path / "tasks")
    found = harness(model, [t.name for t in tasks], [tmp_path / "tasks"])
    by_name = {(r.task, r.metric): r for r in found}
    for task in tasks:
        expected = own.outcomes(model, task.name, "test")
        result = by_name[task.name, METRIC_OF[task.kind]]
        assert result.scores is not None
        assert result.sizes is not None
        assert result.examples == len(expected)
        assert result.sizes == tuple(expected.sizes)
        if task.kind == "likelihood":
            assert result.scores == pytest.approx(expected.scores, rel=1e-5)
            assert result.value == pytest.approx(expected.value, rel=1e-5)
        else:
            assert result.scores == tuple(expected.scores)
            assert result.value == pytest.approx(expected.value, abs=1e-9)
            assert 0.2 < result.value < 0.8  # else agreeing would be easy


def test_a_task_file_of_the_user_gives_what_the_harness_alone_would_give(
    decoder: Path, tmp_path: Path
) -> None:
    """Its rolling likelihood puts a beginning before the one that the tokenizer puts there."""
    texts = TEXTS[:4]
    _write(tmp_path, {"task": "mine", "output_type": "loglikelihood_rolling", "doc_to_text": "",
                      "doc_to_target": "text"}, [{"text": t} for t in texts])  # fmt: skip
    found = {r.metric: r for r in harness(decoder, ["mine"], [tmp_path])}
    assert set(found) == {"word_perplexity", "byte_perplexity", "bits_per_byte"}
    bits = [_bits(decoder, [1, *_ids(decoder, text)]) for text in texts]
    assert found["bits_per_byte"].scores == pytest.approx(bits, rel=1e-5)
    count = sum(len(t.encode()) for t in texts)
    assert found["bits_per_byte"].value == pytest.approx(sum(bits) / count, rel=1e-5)
    words = sum(len(t.split()) for t in texts)
    assert found["word_perplexity"].value == pytest.approx(2 ** (sum(bits) / words), rel=1e-4)
    assert found["word_perplexity"].error is None
    assert found["word_perplexity"].higher_is_better is False


def _ids(folder: Path, text: str) -> list[int]:
    return list(AutoTokenizer.from_pretrained(folder)(text)["input_ids"])


def _bits(folder: Path, ids: list[int]) -> float:
    with torch.no_grad():
        logits = LlamaForCausalLM.from_pretrained(folder)(torch.tensor([ids])).logits[0, :-1]
    return float(torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]))) * (
        (len(ids) - 1) / math.log(2)
    )


def _write(folder: Path, task: dict[str, Any], rows: list[Any]) -> None:
    data = folder / f"{task['task']}.jsonl"
    data.write_text("".join(json.dumps(r) + "\n" for r in rows))
    whole = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}},
             "test_split": "test", **task}  # fmt: skip
    (folder / f"{task['task']}.yaml").write_text(yaml.safe_dump(whole))


CHOICE = {"output_type": "multiple_choice", "doc_to_text": "prompt", "doc_to_choice": "options",
          "doc_to_target": "answer"}  # fmt: skip


def test_nothing_is_left_behind(
    decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    import datasets
    import huggingface_hub

    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    (tmp_path / "scratch").mkdir()

    def stands() -> Any:
        return (
            dict(os.environ), logging.root.manager.disable, torch.get_rng_state().tolist(),
            np.random.get_state()[1].tolist(), sys.stdout, sys.stderr,
            datasets.config.HF_DATASETS_CACHE,
            datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE,
            datasets.are_progress_bars_disabled(),
        )  # fmt: skip

    _write(tmp_path, {"task": "mine", **CHOICE}, _choices())
    before = stands()
    seen: list[tuple[int, int]] = []
    (first, *_) = harness(
        decoder, ["mine"], [tmp_path], limit=10, batch=2, tick=lambda *done: seen.append(done)
    )
    assert stands() == before
    assert (first.task, first.metric, first.filter, first.examples) == ("mine", "acc", "none", 10)
    assert seen == [(16, 30), (30, 30)]
    assert not any((tmp_path / "scratch").iterdir())
    assert not (tmp_path / "home").exists()
    assert capfd.readouterr() == ("", "")


def test_what_is_wrong_is_said_in_one_sentence(decoder: Path, tmp_path: Path) -> None:
    rows = _choices()
    _write(tmp_path, {"task": "mine", **CHOICE}, rows)
    _write(tmp_path, {"task": "halves", **CHOICE, "doc_to_text": "{{ prompt.half() }}"}, rows)
    _write(tmp_path, {"task": "metrics", **CHOICE, "metric_list": [{"metric": "luck"}]}, rows)
    _write(tmp_path, {"task": "hub", **CHOICE, "dataset_path": "some/data"}, rows)
    _write(tmp_path, {"task": "gone", **CHOICE}, rows)
    (tmp_path / "gone.jsonl").unlink()

    def fails(kind: type[Exception], words: str, *tasks: str, **more: Any) -> None:
        with pytest.raises(kind, match=words) as found:
            harness(decoder, tasks, [tmp_path], **more)
        assert "\n" not in str(found.value)

    fails(InputError, "'halves'.*half", "halves")
    fails(InputError, "'metrics'.*KeyError", "metrics")
    fails(InputError, "'gone'.*gone.jsonl", "gone")
    fails(MachineError, "'hub' needs data from the Hugging Face hub, which cannot be", "hub")
    fails(InputError, "No task", limit=2)
    fails(InputError, "limit is 0", "mine", limit=0)
    with pytest.raises(InputError, match="no folder"):
        harness(decoder, ["mine"], [tmp_path / "none"])
