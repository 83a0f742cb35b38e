"""Batches are bounded, and what is in a batch with a row changes nothing about it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from cermet.inference import generation, likelihood, vectors
from cermet.inference.generation import greedy
from cermet.inference.likelihood import continuation, surprise, windows
from cermet.inference.network import Network
from cermet.inference.tokens import Tokenizer, batches, padded, tokenizer_digest
from tests.evaluate.models import (
    BEGIN,
    END,
    SIZE,
    byte_ids,
    save_bert,
    save_bytes,
    save_llama,
    texts,
)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Network:
    return Network(save_llama(tmp_path_factory.mktemp("llama"), 2), "causal")


@given(st.lists(st.integers(0, 40), max_size=30), st.integers(1, 100), st.integers(1, 9))
def test_batches_hold_every_row_once_within_their_bounds(
    lengths: list[int], budget: int, most: int
) -> None:
    found = batches(lengths, budget, most)
    assert sorted(i for batch in found for i in batch) == list(range(len(lengths)))
    assert [lengths[i] for batch in found for i in batch] == sorted(lengths, reverse=True)
    for batch in found:
        assert len(batch) <= most
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= budget


def test_rows_are_filled_up_on_either_side() -> None:
    assert padded([[1], [2, 3]], 9).tolist() == [[1, 9], [2, 3]]
    assert padded([[1], [2, 3]], 9, left=True).tolist() == [[9, 1], [2, 3]]


@given(st.integers(0, 40), st.integers(2, 12), st.booleans())
def test_windows_score_every_token_once(count: int, longest: int, begins: bool) -> None:
    ids = list(range(100, 100 + count))
    found = list(windows(7, ids, 1 if begins else None, longest))
    scored = [token for w in found for token in w.ids[w.first :]]
    assert scored == (ids if begins else ids[1:])
    for window in found:
        assert window.row == 7
        assert 2 <= len(window.ids) <= longest + 1
        assert 1 <= window.first < len(window.ids)
    if len(found) > 1:  # the last one has all the context that there is room for
        assert len(found[-1].ids) == longest + 1


def test_a_continuation_is_what_stands_behind_its_context() -> None:
    found = continuation(3, [5, 6, 7, 8], 2, 0, 10)
    assert (found.row, list(found.ids), found.first) == (3, [0, 5, 6, 7, 8], 3)
    cut = continuation(3, [5, 6, 7, 8], 2, 0, 3)
    assert (list(cut.ids), cut.first) == ([5, 6, 7, 8], 2)
    alone = continuation(3, [5, 6], 0, None, 10)  # the first token has nothing before it
    assert (list(alone.ids), alone.first) == ([5, 6], 1)
    eaten = continuation(3, [5, 6], 2, 0, 10)  # the prompt's tokens hold the option's too
    assert (list(eaten.ids), eaten.first) == ([0, 5, 6], 2)


def test_a_text_longer_than_the_model_is_scored_in_windows(llama: Network) -> None:
    ids = byte_ids("abc dea" * 10)
    asked = list(windows(0, ids, BEGIN, llama.longest))
    assert len(asked) == 3
    found = float(surprise(llama, asked, 1, lambda new: None)[0])
    whole, wanted = [BEGIN, *ids], 0.0
    for end in range(1, len(whole)):
        # of the first two windows each token sees its window; of the last, 32 tokens before it
        start = 0 if end <= 32 else 32 if end <= 64 else len(whole) - 33
        with torch.inference_mode():
            logits = llama.module(input_ids=torch.tensor([whole[start:end]])).logits[0, -1]
        wanted -= float(logits.log_softmax(-1)[whole[end]])
    assert found == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("room", ["_TOKENS", "_ROWS"])
def test_likelihoods_do_not_depend_on_the_batch(llama: Network, room: str) -> None:
    rows = [byte_ids(t) for t in texts(20, most=25)]
    asked = [w for i, r in enumerate(rows) for w in windows(i, r, BEGIN, 32)]
    together = surprise(llama, asked, 20, lambda new: None)
    with mock.patch.object(likelihood, room, 1):
        alone = surprise(llama, asked, 20, lambda new: None)
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-6)


class _Waits(TorchDispatchMode):
    """Counts how often a number is taken out of a tensor, for which a GPU is waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_a_batch_waits_for_nothing(llama: Network, tmp_path: Path) -> None:
    encoder = Network(save_bert(tmp_path), "encoder")
    rows = [byte_ids("some text")] * 12
    asked = [w for i, r in enumerate(rows) for w in windows(i, r, BEGIN, 32)]
    runs: dict[Any, Callable[[], object]] = {
        likelihood: lambda: surprise(llama, asked, 12, lambda new: None),
        vectors: lambda: vectors.text_vectors(encoder, rows, lambda new: None),
    }
    for module, run in runs.items():
        found = []
        for most in (12, 1):
            with mock.patch.object(module, "_ROWS", most), _Waits() as waits:
                run()
            found.append(waits.count)
        assert found[0] == found[1], module


def test_vectors_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    network = Network(save_bert(tmp_path), "encoder")
    rows = [byte_ids(t) for t in texts(20, most=25)]
    ticks = list[int]()
    together = vectors.text_vectors(network, rows, ticks.append)
    assert ticks == [20]
    with mock.patch.object(vectors, "_ROWS", 1):
        alone = vectors.text_vectors(network, rows, lambda new: None)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    with torch.inference_mode():
        hidden = network.module(input_ids=torch.tensor([rows[7]])).last_hidden_state
    torch.testing.assert_close(together[7], hidden[0].mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("most", [1, 9])
def test_what_is_written_does_not_depend_on_the_batch(llama: Network, most: int) -> None:
    prompts = [[BEGIN, *byte_ids(t)] for t in texts(30, most=20)]
    together = greedy(llama, prompts, [END], most, lambda new: None)
    with mock.patch.object(generation, "_ROWS", 1):
        alone = greedy(llama, prompts, [END], most, lambda new: None)
    assert together == alone
    for prompt, row in zip(prompts[:8], together, strict=False):
        given = torch.tensor([prompt])
        out = llama.module.generate(given, do_sample=False, max_new_tokens=most, eos_token_id=END)
        assert out[0, len(prompt) :].tolist() == row


def test_writing_ends_with_the_first_token_that_stops(llama: Network) -> None:
    prompts = [[BEGIN, *byte_ids(t)] for t in texts(12)]
    free = greedy(llama, prompts, [], 8, lambda new: None)
    assert {len(row) for row in free} == {8}
    stop = random.Random(0).choice(free[0][1:5])
    cut = greedy(llama, prompts, [stop, SIZE + 5], 8, lambda new: None)  # one is no token of it
    for whole, row in zip(free, cut, strict=True):
        assert row == (whole[: whole.index(stop) + 1] if stop in whole else whole)
    assert len(cut[0]) < 8


def test_a_tokenizer_frames_texts_or_does_not(tmp_path: Path) -> None:
    save_bytes(tmp_path / "framed", framed=True)
    save_bytes(tmp_path / "plain", begin=False)
    framed, plain = Tokenizer(tmp_path / "framed"), Tokenizer(tmp_path / "plain")
    ids = byte_ids("a b")
    assert framed.framed(["a b"], 99) == [[BEGIN, *ids, END]]
    assert framed.framed(["a b"], 3) == [[BEGIN, ids[0], END]]
    assert framed.plain(["a b", ""]) == [ids, []]
    assert framed.framed([], 9) == framed.plain([]) == []
    assert (framed.begin, plain.begin, plain.end) == (BEGIN, None, END)
    assert framed.text([BEGIN, *ids, END]) == "a b"
    assert framed.spelled_with("\n") == byte_ids("\n")
    assert framed.digest == tokenizer_digest(tmp_path / "framed") != plain.digest
