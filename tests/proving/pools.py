"""A tiny pool: decoders of one start, tuned on words of their own, and a LoRA adapter of each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import transformers
from ruamel.yaml import YAML

from cermet import api
from cermet.evaluate.outcomes import Outcomes
from cermet.recipes.pool import Split, Task
from tests.learn.pools import sentences, write_lines, write_tokenizer
from tests.recipes.pools import llama, llama_config, save

KINDS = {
    "cats": ["the", "cat", "sat", "on", "a", "mat"],
    "dogs": ["some", "dog", "ran", "in", "deep", "snow"],
    "fish": ["one", "fish", "swam", "by", "cold", "rock"],
}
WORDS = ["[UNK]", "[PAD]", *(word for words in KINDS.values() for word in words)]
CARD = "---\nlicense: apache-2.0\n---\n"


def write_pool(root: Path, kinds: Sequence[str] = tuple(KINDS)) -> Path:
    """The pool's folder: base, an expert of each kind, a mixed task that none was tuned for."""
    config = transformers.LlamaConfig(
        hidden_size=16, intermediate_size=24, num_attention_heads=2, num_hidden_layers=2,
        vocab_size=len(WORDS), pad_token_id=1, bos_token_id=0, eos_token_id=1,
        max_position_embeddings=64,
    )  # fmt: skip
    torch.manual_seed(0)
    start = transformers.LlamaForCausalLM(config)
    _save(start, root / "base")
    for kind in kinds:
        model = transformers.LlamaForCausalLM(config)
        model.load_state_dict(start.state_dict())
        optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
        for text in sentences(KINDS[kind], 40, 1):
            ids = torch.tensor([[WORDS.index(word) for word in text.split()]])
            model(input_ids=ids, labels=ids).loss.backward()
            optimiser.step()
            optimiser.zero_grad()
        _save(model, root / "experts" / kind)
        for seed, split in enumerate(("validation", "test"), start=2):
            rows = [{"text": text} for text in sentences(KINDS[kind], 12, seed)]
            write_lines(root / f"{kind}.{split}.jsonl", rows)
    for seed, split in enumerate(("validation", "test"), start=4):
        rows = [{"text": text} for text in sentences(WORDS[2:], 8, seed)]
        write_lines(root / f"mixed.{split}.jsonl", rows)
    _write_yaml(root, kinds)
    return root


def _write_yaml(root: Path, experts: Sequence[str]) -> None:
    content = {
        "cermet_pool": 1,
        "name": "animals",
        "base": "base",
        "experts": {name: f"experts/{name}" for name in experts},
        "tasks": {
            name: {
                "kind": "likelihood",
                "validation": f"{name}.validation.jsonl",
                "test": f"{name}.test.jsonl",
            }
            for name in (*experts, "mixed")
        },
    }
    with (root / "pool.yaml").open("w") as stream:
        YAML(typ="safe").dump(content, stream)


def add_adapters(root: Path) -> None:
    """A LoRA adapter of rank 2 for every expert, each a little off the base."""
    import peft

    yaml = YAML(typ="safe")
    content = yaml.load((root / "pool.yaml").read_text())
    for seed, kind in enumerate(content["experts"]):
        torch.manual_seed(seed)
        base = transformers.LlamaForCausalLM.from_pretrained(root / "base")
        lora = peft.LoraConfig(
            r=2, lora_alpha=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False
        )
        peft.get_peft_model(base, lora).save_pretrained(root / "adapters" / kind)
    content["adapters"] = {kind: f"adapters/{kind}" for kind in content["experts"]}
    with (root / "pool.yaml").open("w") as stream:
        yaml.dump(content, stream)


class Nearness:
    """Stands for an evaluator, in no time: a task is to be near to the weights of its expert.

    The bits of a text are 1 and the distance from the expert, over that of the base, a little
    different for every text; on `mixed`, which no expert was tuned for, from the base itself.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        root = tasks[0].files["test"].parent
        self._wanted = {t.name: _weights(root / "experts" / t.name) for t in tasks if t.expert}
        self._base = _weights(root / "base")
        self.asked: list[tuple[str, str, str]] = []

    def outcomes(self, model: Path, task: str, split: Split, limit: int | None = None) -> Outcomes:
        self.asked.append((model.name, task, split))
        weights, wanted = _weights(model), self._wanted.get(task, self._base)
        whole = (self._wanted["cats"] - self._base).norm()
        bits = 1 + float((weights - wanted).norm() / whole)
        noise = np.random.default_rng(0 if split == "test" else 1).uniform(0.9, 1.1, limit or 20)
        scores = (bits * noise).astype(np.float32)
        answers = np.full(len(scores), -1, np.int64)
        return Outcomes(task, "bits_per_character", scores, np.ones_like(scores), answers, 0.0)


def _weights(folder: Path) -> torch.Tensor:
    return torch.cat([t.double().flatten() for _, t in sorted(api.open(folder).items())])


def write_quick_pool(root: Path, experts: Sequence[str] = tuple(KINDS)) -> Path:
    """A pool for `Nearness`: models of random numbers, which nothing was tuned on."""
    base, config = llama(0), llama_config()
    save(root / "base", base, config)
    for seed, name in enumerate(experts, start=1):
        moved = {n: t + 0.1 * llama(seed)[n] for n, t in base.items()}
        save(root / "experts" / name, moved, config)
    for task in (*experts, "mixed"):
        for split in ("validation", "test"):
            write_lines(root / f"{task}.{split}.jsonl", [{"text": f"a {task}"}])
    _write_yaml(root, experts)
    return root


def _save(model: transformers.LlamaForCausalLM, folder: Path) -> None:
    model.save_pretrained(folder)
    write_tokenizer(folder, WORDS)
    (folder / "README.md").write_text(CARD)
