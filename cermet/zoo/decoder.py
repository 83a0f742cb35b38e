"""Small Llama-shaped decoders: made from a seed, trained the same to the bit, kept as folders."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from cermet.inference.loading import library, load_module, quiet
from cermet.zoo.steps import Tick
from cermet.zoo.tokens import PAD, SPECIALS, Tokens
from cermet.zoo.train import fixed_threads

__all__ = ["Batch", "Course", "Line", "Shape", "blocks", "lines", "load", "make", "save", "train"]

IGNORED = -100
"""A target that no loss is taken of; the default of PyTorch's cross-entropy."""


@dataclass(frozen=True)
class Shape:
    """A decoder's size. inner: width of the MLP. positions: the longest text, in tokens."""

    width: int = 128
    layers: int = 6
    heads: int = 4
    inner: int = 352
    positions: int = 512


@dataclass(frozen=True)
class Course:
    """How a decoder is trained: AdamW, gradients clipped, the rate up and down in straight lines.

    batch: blocks or lines in a step. rate: the highest, reached after `warm_up` (a share of all
    steps) and brought down to 0 at the end. decay: of matrices; vectors have none.
    """

    steps: int
    batch: int
    rate: float
    warm_up: float = 0.05
    decay: float = 0.05
    clip: float = 1.0
    second: float = 0.98


class Batch(NamedTuple):
    """Tokens, and the token that has to follow each of them, or IGNORED."""

    tokens: Int[Tensor, "texts length"]
    targets: Int[Tensor, "texts length"]


class Line(NamedTuple):
    """A prompt and what has to follow it, in tokens, without the beginning and end of a text."""

    prompt: Sequence[int]
    answer: Sequence[int]


def make(shape: Shape, tokens: Tokens, seed: int) -> Any:
    """A transformers LlamaForCausalLM with tied embeddings, initialised by the seed alone.

    Raises ExtraError where transformers is missing.
    """
    transformers = library("Training a model")
    config = transformers.LlamaConfig(
        vocab_size=tokens.size,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=shape.positions,
        initializer_range=shape.width**-0.5,
        tie_word_embeddings=True,
        bos_token_id=SPECIALS["bos_token"][0],
        eos_token_id=SPECIALS["eos_token"][0],
        pad_token_id=PAD,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return transformers.LlamaForCausalLM(config)


def load(folder: Path) -> Any:
    """The decoder in a folder, in float32. Raises ExtraError where transformers is missing."""
    return load_module(folder, "causal").module


def save(model: Any, tokens: Tokens, folder: Path, *, licence: str, about: str) -> None:
    """Write an ordinary Hugging Face folder: weights, config, tokenizer, and a card.

    licence: an identifier of the hub. about: the card's text.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with quiet():
        model.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # safetensors closes it to everyone else
    tokens.save(folder, model.config.max_position_embeddings)
    card = f"---\nlicense: {licence}\nlibrary_name: transformers\n---\n\n{about}\n"
    (folder / "README.md").write_text(card, "utf-8")


def train(model: Any, batches: Iterator[Batch], course: Course, tick: Tick | None = None) -> None:
    """Train in place what of the model has a gradient; `tick` is told of every step.

    `batches` has to hold at least `course.steps`. The same model and batches give the same bits
    on the same machine: the number of threads is fixed, and nothing is drawn at random.
    """
    model.train()
    learning = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learning if p.ndim > 1], "weight_decay": course.decay},
        {"params": [p for p in learning if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(
        [g for g in groups if g["params"]], course.rate, betas=(0.9, course.second), fused=True
    )
    warm = max(1, round(course.warm_up * course.steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda step: min((step + 1) / warm, (course.steps - step) / max(1, course.steps - warm)),
    )
    with fixed_threads():
        for step in range(1, course.steps + 1):
            tokens, targets = next(batches)
            # No mask of padding: it stands at the end, where causal attention does not see it.
            logits = model(input_ids=tokens, use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(learning, course.clip)
            optimiser.step()
            schedule.step()
            optimiser.zero_grad()
            if tick is not None:
                tick(step, course.steps)
    model.eval()


def blocks(texts: Sequence[Sequence[int]], length: int, batch: int, seed: int) -> Iterator[Batch]:
    """Running text without end: texts in a new order in each round, cut into full blocks.

    texts: tokens of each, without a beginning, which is put before each of them. Raises
    ValueError where all of them do not fill one block.
    """
    begin = SPECIALS["bos_token"][0]
    order = random.Random(seed)
    rows: list[Tensor] = []
    while True:
        stream = [t for text in order.sample(texts, len(texts)) for t in (begin, *text)]
        count = (len(stream) - 1) // length
        if count < 1:
            raise ValueError(f"texts of {len(stream)} tokens do not fill a block of {length}")
        flat = torch.tensor(stream)
        rows += [flat[i * length : (i + 1) * length + 1] for i in range(count)]
        while len(rows) >= batch:
            held = torch.stack(rows[:batch])
            del rows[:batch]
            yield Batch(held[:, :-1], held[:, 1:])


def lines(
    rows: Sequence[Line], batch: int, seed: int, *, first: int = 0, end: bool = False
) -> Iterator[Batch]:
    """Prompts with their answers without end, in a new order in each round, padded at the end.

    Rows of like length share a batch, so that little is padded. first: how many tokens of a line,
    of those after its beginning, the loss leaves out; below 0, the whole prompt of each. end:
    the end token follows every answer, and has to be learnt too. Raises ValueError where there
    are fewer rows than fill a batch.
    """
    if len(rows) < batch:
        raise ValueError(f"{len(rows)} lines do not fill a batch of {batch}")
    tail = [SPECIALS["eos_token"][0]] if end else []
    order = random.Random(seed)
    stretch = batch * 16
    while True:
        round_ = order.sample(rows, len(rows))
        held = []
        for start in range(0, len(round_), stretch):
            near = sorted(round_[start : start + stretch], key=lambda r: sum(map(len, r)))
            held += [near[i : i + batch] for i in range(0, len(near) - batch + 1, batch)]
        order.shuffle(held)
        for part in held:
            yield _padded(part, tail, first)


def _padded(part: Sequence[Line], tail: list[int], first: int) -> Batch:
    begin = SPECIALS["bos_token"][0]
    texts = [[begin, *row.prompt, *row.answer, *tail] for row in part]
    longest = max(map(len, texts))
    whole = torch.full((len(texts), longest), PAD)
    targets = torch.full((len(texts), longest - 1), IGNORED)
    for i, (row, text) in enumerate(zip(part, texts, strict=True)):
        whole[i, : len(text)] = torch.tensor(text)
        skipped = len(row.prompt) if first < 0 else first
        targets[i, skipped : len(text) - 1] = whole[i, skipped + 1 : len(text)]
    return Batch(whole[:, :-1], targets)
