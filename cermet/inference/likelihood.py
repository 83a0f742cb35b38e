"""How likely a causal language model finds texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float

from cermet.inference.network import Network
from cermet.inference.tokens import Row, batches, padded

__all__ = ["Scored", "continuation", "surprise", "windows"]

_TOKENS = 4096  # of a batch
_ROWS = 256
_LOGITS = 1 << 25  # numbers of a batch: 128 MB in float32


@dataclass(frozen=True, slots=True)
class Scored:
    """Tokens of which the ones from `first` on are scored, given all before them.

    row: the text that they are of.
    """

    row: int
    ids: Row
    first: int


def windows(row: int, ids: Row, begin: int | None, longest: int) -> Iterator[Scored]:
    """What a model that reads `longest` tokens at a time is asked about one text.

    Every token is scored once, the first given `begin`; where that is None, it is not scored. A
    window follows the last without overlap but for one token of context, and the final one
    reaches back so far that it is full.
    """
    whole = list(ids) if begin is None else [begin, *ids]
    scored = 1
    while scored < len(whole):
        end = min(scored + longest, len(whole))
        start = max(0, end - longest - 1)
        yield Scored(row, whole[start:end], scored - start)
        scored = end


def surprise(
    network: Network, asked: Sequence[Scored], rows: int, tick: Callable[[int], None]
) -> Float[torch.Tensor, "rows"]:
    """Negative log-likelihood in nats of what is asked, summed by row in float64, on the CPU."""
    lengths = [len(a.ids) - 1 for a in asked]
    order, found = list[int](), list[torch.Tensor]()
    budget = min(_TOKENS, _LOGITS // int(network.config.vocab_size))
    with torch.inference_mode():
        for batch in batches(lengths, budget, _ROWS):
            # Causal attention never looks at what fills a row up on the right: no mask is needed.
            ids = padded([asked[i].ids for i in batch], 0)
            counted = torch.zeros_like(ids[:, 1:], dtype=torch.bool)
            for line, i in enumerate(batch):
                counted[line, asked[i].first - 1 : lengths[i]] = True
            ids, counted = network.moved(ids), network.moved(counted)
            logits = network.module(input_ids=ids[:, :-1], use_cache=False).logits
            lost = torch.nn.functional.cross_entropy(
                logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
            )
            found.append((lost.view(counted.shape).double() * counted).sum(1))
            order += batch
            tick(len(batch))
    total = torch.zeros(rows, dtype=torch.float64)
    if found:  # added up on the CPU, in order: on a GPU the order, and so the sum, is by chance
        where = torch.tensor([asked[i].row for i in order])
        total.index_add_(0, where, torch.cat(found).cpu())
    return total


def continuation(row: int, whole: Row, context: int, begin: int | None, longest: int) -> Scored:
    """What a model is asked about the end of one text, of which `context` tokens are given.

    At least the last token is scored. What is too long loses its beginning.
    """
    ids = list(whole) if begin is None else [begin, *whole]
    first = min(context + len(ids) - len(whole), len(ids) - 1)
    cut = max(0, len(ids) - longest - 1)
    return Scored(row, ids[cut:], max(1, first - cut))
