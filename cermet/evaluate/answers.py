"""How each kind of task is put to a model, and what counts as right.

Preparing turns examples into tokens, once for all models with one tokenizer; answering runs one
model.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from jaxtyping import Float, Int

from cermet.core.errors import InputError, MismatchError, NonFiniteError
from cermet.evaluate.examples import Head, Images
from cermet.inference.generation import greedy
from cermet.inference.likelihood import Scored, continuation, surprise, windows
from cermet.inference.loading import Kind as RunAs
from cermet.inference.network import Network
from cermet.inference.tokens import Row, Tokenizer
from cermet.inference.vectors import Tick, image_vectors, label_logits, text_vectors
from cermet.recipes.pool import Kind, Task

__all__ = ["WAYS", "Answered", "Asked", "Way"]


@dataclass(frozen=True)
class Asked:
    """Examples as a model is given them.

    examples: as `read_lines` and `read_images` give them. tokenizer: None for images. rows: the
    tokens of each example. scored: what a language model is asked the likelihood of. stops: tokens
    that end what is written.
    """

    task: Task
    examples: Any
    head: Head | None
    tokenizer: Tokenizer | None = None
    rows: Sequence[Row] = ()
    scored: Sequence[Scored] = ()
    stops: Sequence[int] = ()

    @property
    def tokens(self) -> int:
        """Tokens that are read."""
        return sum(map(len, self.rows)) + sum(len(s.ids) - 1 for s in self.scored)

    @property
    def highest(self) -> int:
        """The highest number of a token; -1 where there is none."""
        return max((max(r) for r in [*self.rows, *(s.ids for s in self.scored)] if r), default=-1)


@dataclass(frozen=True)
class Answered:
    """The arrays of `Outcomes`, and the number of tokens that were written."""

    scores: Float[torch.Tensor, "examples"]
    sizes: Float[torch.Tensor, "examples"]
    answers: Int[torch.Tensor, "examples"]
    written: int = 0


@dataclass(frozen=True)
class Way:
    """How a kind of task is done: what the model is run as, and the two steps.

    prepare: gets the task, its examples, its head, the tokenizer (None for images) and the number
    of tokens that the model reads. answer: gets the model, what was prepared, and the progress.
    """

    run_as: RunAs
    prepare: Callable[[Task, Any, Head | None, Any, int], Asked]
    answer: Callable[[Network, Asked, Tick], Answered]


def _framed(
    task: Task, examples: Any, head: Head | None, tokenizer: Tokenizer, longest: int
) -> Asked:
    rows = tokenizer.framed([e.text for e in examples], longest)
    for row, example in zip(rows, examples, strict=True):
        if not row:
            raise InputError(f"The tokenizer makes no token of the text {example.text!r}.")
    return Asked(task, examples, head, tokenizer, rows)


def _pictures(
    task: Task, examples: Images, head: Head | None, tokenizer: None, longest: int
) -> Asked:
    return Asked(task, examples, head)


def _windows(
    task: Task, examples: Any, head: Head | None, tokenizer: Tokenizer, longest: int
) -> Asked:
    rows = tokenizer.plain(examples)
    scored = [s for i, r in enumerate(rows) for s in windows(i, r, tokenizer.begin, longest)]
    return Asked(task, examples, head, tokenizer, scored=scored)


def _prompts(
    task: Task, examples: Any, head: Head | None, tokenizer: Tokenizer, longest: int
) -> Asked:
    room = longest - task.max_tokens
    if room < 1:
        raise InputError(
            f"Task '{task.name}' writes {task.max_tokens} tokens, but the model has {longest} "
            "positions for prompt and answer."
        )
    lead = [] if tokenizer.begin is None else [tokenizer.begin]
    rows = [[*lead, *row][-room:] for row in tokenizer.plain([e.prompt for e in examples])]
    for row, example in zip(rows, examples, strict=True):
        if not row:
            raise InputError(f"The tokenizer makes no token of the prompt {example.prompt!r}.")
    stops = tokenizer.spelled_with("\n")
    ends = [] if tokenizer.end is None else [tokenizer.end]
    return Asked(task, examples, head, tokenizer, rows, stops=[*stops, *ends])


def _options(
    task: Task, examples: Any, head: Head | None, tokenizer: Tokenizer, longest: int
) -> Asked:
    # White space at the end of a prompt belongs to the first token of what follows it.
    prompts = [len(r) for r in tokenizer.plain([e.prompt.rstrip() for e in examples])]
    counts = [n for n, e in zip(prompts, examples, strict=True) for _ in e.options]
    wholes = tokenizer.plain([e.prompt + o for e in examples for o in e.options])
    scored = [
        continuation(i, whole, count, tokenizer.begin, longest)
        for i, (whole, count) in enumerate(zip(wholes, counts, strict=True))
    ]
    return Asked(task, examples, head, tokenizer, scored=scored)


def _embed(network: Network, asked: Asked, tick: Tick) -> Answered:
    return _headed(network, asked, text_vectors(network, asked.rows, tick))


def _see(network: Network, asked: Asked, tick: Tick) -> Answered:
    return _headed(network, asked, image_vectors(network, asked.examples.pixels, tick))


def _headed(
    network: Network, asked: Asked, vectors: Float[torch.Tensor, "examples width"]
) -> Answered:
    """The label whose row of the frozen head a vector fits best."""
    head = asked.head
    assert head is not None
    if head.weight.shape[1] != vectors.shape[1]:
        raise MismatchError(
            f"The head '{asked.task.head}' is for vectors of width {head.weight.shape[1]}; those "
            f"of '{network.folder}' have {vectors.shape[1]}."
        )
    logits = vectors @ head.weight.T
    return _labels(network, asked, logits if head.bias is None else logits + head.bias)


def _classify(network: Network, asked: Asked, tick: Tick) -> Answered:
    labels = int(network.config.num_labels)
    for number, example in enumerate(asked.examples, start=1):
        if example.label >= labels:
            raise MismatchError(
                f"Example {number} of task '{asked.task.name}' has label {example.label}, but "
                f"'{network.folder}' has {labels} labels."
            )
    return _labels(network, asked, label_logits(network, asked.rows, tick))


def _labels(
    network: Network, asked: Asked, logits: Float[torch.Tensor, "examples labels"]
) -> Answered:
    _check_finite(network, logits)
    examples = asked.examples
    pictures = isinstance(examples, Images)
    wanted = examples.labels if pictures else torch.tensor([e.label for e in examples])
    found = logits.argmax(1)
    return _right(found == wanted, found)


def _likelihood(network: Network, asked: Asked, tick: Tick) -> Answered:
    nats = surprise(network, asked.scored, len(asked.examples), tick)
    _check_finite(network, nats)
    sizes = torch.tensor([float(len(text)) for text in asked.examples])
    return Answered((nats / math.log(2)).float(), sizes, torch.full((len(sizes),), -1))


def _generate(network: Network, asked: Asked, tick: Tick) -> Answered:
    written = greedy(network, asked.rows, asked.stops, asked.task.max_tokens, tick)
    assert asked.tokenizer is not None
    texts = [asked.tokenizer.text(row).partition("\n")[0].strip() for row in written]
    right = [t == e.answer.strip() for t, e in zip(texts, asked.examples, strict=True)]
    hashes = [hashlib.sha256(text.encode()).digest()[:8] for text in texts]
    answers = torch.tensor([int.from_bytes(h, "little", signed=True) for h in hashes])
    return _right(torch.tensor(right), answers, sum(map(len, written)))


def _choose(network: Network, asked: Asked, tick: Tick) -> Answered:
    nats = surprise(network, asked.scored, len(asked.scored), tick)
    _check_finite(network, nats)
    sizes = torch.tensor([len(option) for e in asked.examples for option in e.options])
    costs = iter((nats / sizes).tolist())
    each = [list(islice(costs, len(e.options))) for e in asked.examples]
    found = torch.tensor([own.index(min(own)) for own in each])
    return _right(found == torch.tensor([e.answer for e in asked.examples]), found)


def _right(
    right: torch.Tensor, answers: Int[torch.Tensor, "examples"], written: int = 0
) -> Answered:
    return Answered(right.float(), torch.ones(len(right)), answers, written)


def _check_finite(network: Network, values: Float[torch.Tensor, "..."]) -> None:
    if not bool(values.isfinite().all()):
        raise NonFiniteError(f"'{network.folder}' gives NaN or infinity in place of outputs.")


WAYS: Mapping[Kind, Way] = {
    "embed": Way("encoder", _framed, _embed),
    "images": Way("encoder", _pictures, _see),
    "classify": Way("classifier", _framed, _classify),
    "likelihood": Way("causal", _windows, _likelihood),
    "generate": Way("causal", _prompts, _generate),
    "choose": Way("causal", _options, _choose),
}
"""By kind of task."""
