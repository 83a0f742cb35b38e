"""Small decoders: what a batch holds, what is learnt, what is left alone."""

from __future__ import annotations

from functools import partial
from itertools import islice

import pytest
import torch

from cermet.inference.threads import with_threads
from cermet.zoo import decoder
from cermet.zoo.decoder import IGNORED, Line, Shape, blocks, course, lines, make, tune
from cermet.zoo.texts import pieces
from cermet.zoo.tokens import PAD, SPECIALS, byte_tokens, learnt_tokens

_BOS, _EOS = SPECIALS["bos_token"][0], SPECIALS["eos_token"][0]
_SHAPE = Shape(width=16, layers=1, heads=2, inner=24, positions=64)
_COURSE = course(steps=30, batch=2, rate=1e-2)
_TEXTS = [[10 + i, 20 + i, 30 + i] for i in range(5)]


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrices as small as these are slower on two threads, and very slow beside other work."""
    monkeypatch.setattr(decoder, "fixed_threads", partial(with_threads, 1))


def test_blocks_hold_every_text_once_in_a_round_each_behind_a_beginning() -> None:
    batch = next(blocks(_TEXTS, 19, 1, seed=0))
    assert batch.tokens.shape == (1, 19)
    assert torch.equal(batch.tokens[0, 1:], batch.targets[0, :-1])
    stream = [*batch.tokens[0].tolist(), int(batch.targets[0, -1])]
    texts = [stream[i + 1 : i + 4] for i in range(0, 20, 4)]
    assert stream[::4] == [_BOS] * 5
    assert sorted(texts) == _TEXTS
    assert texts != _TEXTS
    with pytest.raises(ValueError, match="do not fill a block of 64"):
        next(blocks(_TEXTS, 64, 1, seed=0))


@pytest.mark.parametrize("end", [False, True])
def test_the_loss_is_of_the_answer_alone_or_of_all(end: bool) -> None:
    rows = [Line([5, 6, 7], [8, 9]), Line([5], [8])]
    tail = [_EOS] if end else []
    tokens, targets = next(lines(rows, 2, seed=0, first=-1, end=end))
    wanted = {
        (_BOS, 5, 6, 7, 8, 9, *tail)[:-1]: (*[IGNORED] * 3, 8, 9, *tail),
        (_BOS, 5, 8, *tail)[:-1]: (IGNORED, 8, *tail),
    }
    for row, target in zip(tokens.tolist(), targets.tolist(), strict=True):
        length = max(i for i, t in enumerate(target) if t != IGNORED) + 1
        assert tuple(target[:length]) == wanted[tuple(row[:length])]
        assert set(target[length:]) <= {IGNORED}
        assert set(row[length + 1 :]) <= {PAD}
    everything = next(lines(rows, 2, seed=0)).targets
    assert sorted((everything != IGNORED).sum(1).tolist()) == [2, 5]
    with pytest.raises(ValueError, match="2 lines do not fill a batch of 3"):
        next(lines(rows, 3, seed=0))


def test_lines_of_a_round_are_all_there() -> None:
    rows = [Line([i], [i, *range(i % 3)]) for i in range(10, 22)]
    seen = [t for batch in islice(lines(rows, 4, seed=1), 3) for t in batch.tokens[:, 1].tolist()]
    assert sorted(seen) == list(range(10, 22))


def test_a_decoder_learns_and_leaves_the_random_state_and_threads_alone() -> None:
    tokens = byte_tokens()
    texts = tokens.encode(["abcabcabcabc\n"] * 8)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    model = make(_SHAPE, tokens, seed=3)
    batch = next(blocks(texts, 32, 2, seed=0))

    def loss() -> float:
        with torch.no_grad():
            logits = model(batch.tokens).logits
        return float(torch.nn.functional.cross_entropy(logits.mT, batch.targets))

    before = loss()
    seen: list[tuple[int, int]] = []
    tune(
        model, blocks(texts, 32, 2, seed=0), _COURSE, lambda done, total: seen.append((done, total))
    )
    assert loss() < before / 2
    assert seen == [(i, 30) for i in range(1, 31)]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert not model.training
    again = make(_SHAPE, tokens, seed=3)
    assert not torch.equal(again.model.norm.weight, model.model.norm.weight)
    tune(again, blocks(texts, 32, 2, seed=0), _COURSE)
    assert all(
        torch.equal(one, other)
        for one, other in zip(model.parameters(), again.parameters(), strict=True)
    )


def test_tokenizers_write_any_text_and_never_a_special_token() -> None:
    texts = ["for i in range(3):\n\tprint(i)\n", "naïve Σ 漢\r\n", " two  spaces "]
    learnt = learnt_tokens(texts * 3, 280)
    assert (byte_tokens().size, learnt.size) == (259, 280)
    for tokens in (byte_tokens(), learnt):
        for text, ids in zip(texts, tokens.encode(texts), strict=True):
            assert tokens.tokenizer.decode(ids) == text
            assert min(ids) > _EOS
    assert len(learnt.encode(texts)[0]) < len(texts[0].encode())


def test_pieces_are_whole_lines_where_lines_are_short_enough() -> None:
    text = "one\ntwo\nthree\n" + "x" * 25 + "\n...\n"
    found = list(pieces(text, 10))
    assert found == ["one\ntwo\n", "three\n", "x" * 10, "x" * 10, "xxxxx\n...\n"]
    assert list(pieces("---\n\n", 10)) == []
