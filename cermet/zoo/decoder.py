"""Small Llama-shaped decoders: made from a seed, trained the same to the bit, kept as folders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int

from cermet.inference.loading import library, load_module, quiet
from cermet.zoo.steps import Tick
from cermet.zoo.tokens import PAD, SPECIALS, Tokens
from cermet.zoo.train import Course, alike, fixed_threads, train

__all__ = ["Batch", "Line", "Shape", "blocks", "course", "lines", "load", "make", "save", "tune"]

IGNORED = -100
"""A target that no loss is taken of; the default of PyTorch's cross-entropy."""

_STRETCH = 16  # batches whose lines are sorted by length together


@dataclass(frozen=True)
class Shape:
    """A decoder's size. inner: width of the MLP. positions: the longest text, in tokens."""

    width: int = 128
    layers: int = 6
    heads: int = 4
    inner: int = 352
    positions: int = 512


def course(steps: int, batch: int, rate: float) -> Course:
    """How a decoder is trained. batch: blocks or lines in a step; rate: the highest."""
    return Course(batch, rate, steps=steps, warm_up=0.05, decay=0.05, clip=1.0, second=0.98)


class Batch(NamedTuple):
    """Tokens, and the token that has to follow each of them, or IGNORED."""

    tokens: Int[torch.Tensor, "texts length"]
    targets: Int[torch.Tensor, "texts length"]


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


def save(model: Any, tokens: Tokens, folder: Path) -> None:
    """Write an ordinary Hugging Face folder: weights, config and tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    with quiet():
        model.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # safetensors closes it to everyone else
    tokens.save(folder, model.config.max_position_embeddings)


def tune(model: Any, batches: Iterator[Batch], course: Course, tick: Tick | None = None) -> None:
    """Train in place what of the model has a gradient; `tick` is told of every step.

    Vectors have no decay. `batches` has to hold at least `course.steps`. The same model and batches
    give the same bits on the same machine: the number of threads is fixed, and nothing is drawn at
    random. Raises NonFiniteError as `train` does.
    """

    def loss(batch: Batch) -> Float[torch.Tensor, ""]:
        # No mask of padding: it stands at the end, where causal attention does not see it.
        logits = model(input_ids=batch.tokens, use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())

    assert course.steps is not None  # and no epochs: `batches` never ends
    learning = [p for p in model.parameters() if p.requires_grad]
    vectors = [p for p in learning if p.ndim < 2]
    model.train()
    with fixed_threads():
        train(learning, list(islice(batches, course.steps)), loss, course, tick, spared=vectors)
    model.eval()


def blocks(texts: Sequence[Sequence[int]], length: int, batch: int, seed: int) -> Iterator[Batch]:
    """Running text without end: texts in a new order in each round, cut into full blocks.

    texts: tokens of each, without a beginning, which is put before each of them. Raises
    ValueError where all of them do not fill one block.
    """
    begin = SPECIALS["bos_token"][0]
    order = Random(seed)
    rows: list[torch.Tensor] = []
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
    order = Random(seed)
    while True:
        found = alike(rows, batch, batch * _STRETCH, order, lambda row: sum(map(len, row)))
        held = [part for part in found if len(part) == batch]
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
