"""Greedy decoding: what a causal language model writes after a prompt."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int

from cermet.core.errors import NonFiniteError
from cermet.inference.network import Network
from cermet.inference.tokens import Row, batches, marked, padded

__all__ = ["greedy"]

_CACHES = ("cache", "past_key_values", "cache_params")  # its names in transformers
_TOKENS = 8192  # of a batch: prompts and what is written after them
_ROWS = 256
_LOOK = 8  # steps between two looks at whether all rows have ended, where a look costs a wait


def greedy(
    network: Network,
    prompts: Sequence[Row],
    stops: Sequence[int],
    most: int,
    tick: Callable[[int], None],
) -> list[list[int]]:
    """The likeliest next token, again and again, up to and with the first that stops, or `most`.

    In the order of the prompts, of which none is empty. Raises NonFiniteError for a model whose
    logits are no numbers.
    """
    stopping = torch.zeros(int(network.config.vocab_size), dtype=torch.bool)
    stopping[[i for i in stops if i < len(stopping)]] = True
    there = network.moved(stopping)
    found: list[list[int]] = [[] for _ in prompts]
    with torch.inference_mode():
        for batch in batches([len(p) + most for p in prompts], _TOKENS, _ROWS):
            written = _written(network, [prompts[i] for i in batch], there, most)
            ends = stopping[written]
            for i, row, ended in zip(batch, written.tolist(), ends, strict=True):
                count = int(ended.int().argmax()) + 1 if bool(ended.any()) else len(row)
                found[i] = row[:count]
            tick(len(batch))
    return found


def _written(
    network: Network, prompts: Sequence[Row], stopping: Bool[torch.Tensor, "vocabulary"], most: int
) -> Int[torch.Tensor, "prompts tokens"]:
    """What a batch goes on with, at least until each has stopped."""
    ids = network.moved(padded(prompts, 0, left=True))
    mask = network.moved(marked(prompts, left=True))
    places = (mask.cumsum(1) - 1).clamp(min=0)
    even = len({len(p) for p in prompts}) == 1
    stopped = torch.zeros(len(prompts), dtype=torch.bool, device=network.device)
    finite = stopped.logical_not()
    takes = inspect.signature(network.module.forward).parameters
    kept = next((n for n in _CACHES if n in takes), _CACHES[0])
    given: dict[str, Any] = {"use_cache": True}
    if "logits_to_keep" in takes:
        given["logits_to_keep"] = 1
    out = []
    for step in range(most):
        if not even:
            given["attention_mask"] = mask
        if "position_ids" in takes:
            given["position_ids"] = places
        done = network.module(input_ids=ids, **given)
        given[kept] = done[kept]
        height, ids = done.logits[:, -1].max(-1, keepdim=True)
        finite &= height[:, 0].isfinite()
        out.append(ids)
        stopped |= stopping[ids[:, 0]]
        looked = network.device.type == "cpu" or step % _LOOK == _LOOK - 1
        if looked and bool(stopped.all()):
            break
        places = places[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], 1)
    if not bool(finite.all()):
        raise NonFiniteError(f"'{network.folder}' gives NaN or infinity in place of logits.")
    return torch.cat(out, 1).cpu()
