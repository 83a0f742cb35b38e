"""Tiny language models and classifiers that differ, with a tokenizer and texts to learn from."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

CATS = ["the", "cat", "sat", "on", "a", "mat"]
DOGS = ["some", "dog", "ran", "in", "deep", "snow"]
WORDS = ["[UNK]", "[PAD]", *CATS, *DOGS]
_SMALL = {"hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2,
          "num_hidden_layers": 2, "vocab_size": len(WORDS), "pad_token_id": 1}  # fmt: skip


def sentences(words: Sequence[str], count: int, seed: int = 0) -> list[str]:
    """Texts of four to seven of the words."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(words, k=draw.randint(4, 7))) for _ in range(count)]


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """A file of JSON lines."""
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    return path


def write_tokenizer(folder: Path, words: Sequence[str] = WORDS, pad: str | None = "[PAD]") -> None:
    """One token for each word."""
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token=pad
    ).save_pretrained(folder)


def token_ids(text: str) -> list[int]:
    """The tokens of a text of known words."""
    return [WORDS.index(word) for word in text.split()]


def write_llamas(root: Path, tied: bool = False) -> list[str]:
    """One that was tuned on cats, one on dogs, and one on neither, from one start."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**_SMALL, tie_word_embeddings=tied)
    start = transformers.LlamaForCausalLM(config).state_dict()
    start = {name: tensor.clone() for name, tensor in start.items()}
    paths = []
    for name, words in (("cats", CATS), ("dogs", DOGS), ("neither", None)):
        model = transformers.LlamaForCausalLM(config)
        model.load_state_dict(start)
        if words is not None:
            rows = [token_ids(text) for text in sentences(words, 64)]
            _tune(model, [{"input_ids": i, "labels": i} for i in (torch.tensor([r]) for r in rows)])
        model.save_pretrained(root / name)
        write_tokenizer(root / name)
        paths.append(str(root / name))
    return paths


def write_berts(root: Path, **config: Any) -> list[str]:
    """Two classifiers, of which one was taught to tell cats from dogs."""
    torch.manual_seed(1)
    names = {"id2label": {0: "cat", 1: "dog"}, "label2id": {"cat": 0, "dog": 1}}
    settings = transformers.BertConfig(**{**_SMALL, **names, **config})
    model = transformers.BertForSequenceClassification(settings)
    paths = [str(root / "plain"), str(root / "taught")]
    for path in paths:
        if path.endswith("taught"):
            rows = [(token_ids(t), i) for i, w in enumerate((CATS, DOGS)) for t in sentences(w, 24)]
            random.Random(0).shuffle(rows)
            _tune(
                model,
                [{"input_ids": torch.tensor([r]), "labels": torch.tensor([i])} for r, i in rows],
            )
        model.save_pretrained(path)
        write_tokenizer(Path(path))
    return paths


def _tune(model: Any, batches: Sequence[Mapping[str, torch.Tensor]]) -> None:
    optimiser = torch.optim.AdamW(model.train().parameters(), lr=1e-2)
    for batch in batches:
        optimiser.zero_grad()
        model(**batch).loss.backward()
        optimiser.step()
