"""Tiny models that were never trained, with a tokenizer of bytes, and files of examples."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

BEGIN, END, PAD = 0, 1, 2
_ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
_VOCABULARY = {"<s>": BEGIN, "</s>": END, "<pad>": PAD}
_VOCABULARY |= {sign: i for i, sign in enumerate(_ALPHABET, start=len(_VOCABULARY))}
SIZE = len(_VOCABULARY)
_SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2,
          "num_hidden_layers": 2, "initializer_range": 0.4}  # fmt: skip


def byte_ids(text: str) -> list[int]:
    """The tokens of a text, one for each byte."""
    spelled = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(text)
    return [_VOCABULARY[sign] for part, _ in spelled for sign in part]


def save_bytes(folder: Path, *, begin: bool = True, framed: bool = False) -> None:
    """A tokenizer with a token for each byte; `framed` puts <s> and </s> around a text."""
    tokenizer = Tokenizer(models.BPE(_VOCABULARY, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if framed:
        ends = [("<s>", BEGIN), ("</s>", END)]
        tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", None, ends)
    names = {"bos_token": "<s>"} if begin else {}
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", **names
    ).save_pretrained(folder)


def save_llama(folder: Path, seed: int = 0, *, begin: bool = True, **changes: Any) -> Path:
    """A language model of 32 positions."""
    torch.manual_seed(seed)
    settings = {**_SMALL, "vocab_size": SIZE, "max_position_embeddings": 32, "bos_token_id": BEGIN,
                "eos_token_id": END, "pad_token_id": PAD, **changes}  # fmt: skip
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**settings)).save_pretrained(folder)
    save_bytes(folder, begin=begin)
    return folder


def save_bert(folder: Path, seed: int = 0, *, head: str = "", **changes: Any) -> Path:
    """An encoder, or one with a head (`ForMaskedLM`, `ForSequenceClassification`)."""
    torch.manual_seed(seed)
    settings = {**_SMALL, "vocab_size": SIZE, "max_position_embeddings": 64, "pad_token_id": PAD}
    config = transformers.BertConfig(**{**settings, **changes})
    getattr(transformers, f"Bert{head or 'Model'}")(config).save_pretrained(folder)
    save_bytes(folder, framed=True)
    return folder


def save_vit(folder: Path, seed: int = 0) -> Path:
    """An encoder of images of 3 x 8 x 8, without a pooler."""
    torch.manual_seed(seed)
    config = transformers.ViTConfig(**_SMALL, image_size=8, patch_size=4)
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def texts(count: int, seed: int = 0, most: int = 20) -> list[str]:
    """Texts of letters, of very unequal length."""
    draw = random.Random(seed)
    return ["".join(draw.choices("abcde ", k=draw.randint(1, most))) for _ in range(count)]


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """A file of JSON lines."""
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    return path


def write_pool(root: Path, tasks: Mapping[str, str], base: str = "base", **more: str) -> Path:
    """A pool with one expert; each task has one file of the kind's rows for both splits."""
    lines = [f"cermet_pool: 1\nname: tiny\nbase: {base}\nexperts: {{first: expert}}\n"]
    lines += [f"{key}: {value}\n" for key, value in more.items()] + ["tasks:\n"]
    for name, kind in tasks.items():
        file = f"{name}.{'safetensors' if kind == 'images' else 'jsonl'}"
        head = f", head: {name}.head.safetensors" if kind in ("embed", "images") else ""
        lines.append(
            f"  {name}: {{kind: {kind}, expert: first, validation: {file}, test: {file}{head}, "
            "max_tokens: 6}\n"
        )
        _write_examples(root, name, kind)
    (root / "pool.yaml").write_text("".join(lines), "utf-8")
    return root / "pool.yaml"


def _write_examples(root: Path, name: str, kind: str) -> None:
    draw, lines = torch.Generator().manual_seed(3), texts(24)
    labels = torch.randint(3, (24,), generator=draw)
    head = torch.randn(3, 16, generator=draw)
    if kind == "images":
        pixels = torch.randint(256, (24, 3, 8, 8), generator=draw, dtype=torch.uint8)
        save_file({"images": pixels, "labels": labels}, root / f"{name}.safetensors")
        found = {"weight": head, "bias": torch.randn(3, generator=draw)}
        save_file(found, root / f"{name}.head.safetensors")
        return
    if kind == "embed":
        unit = torch.nn.functional.normalize(head, dim=-1)
        save_file({"head": unit}, root / f"{name}.head.safetensors")
    rows: dict[str, Sequence[Mapping[str, Any]]] = {
        "embed": [{"text": t, "label": int(i)} for t, i in zip(lines, labels, strict=True)],
        "classify": [{"text": t, "label": int(i)} for t, i in zip(lines, labels, strict=True)],
        "likelihood": [{"text": t} for t in lines],
        "generate": [{"prompt": t, "answer": "ab\n"} for t in lines],
        "choose": [
            {"prompt": t, "options": lines[i % 20 : i % 20 + 3], "answer": i % 3}
            for i, t in enumerate(lines)
        ],
    }
    write_lines(root / f"{name}.jsonl", rows[kind])
