"""The generator: disjoint splits, the same utterances for the same seed, typing errors."""

from __future__ import annotations

import re
from random import Random

import pytest

from cermet.zoo.subjects import SPLITS, Split
from cermet.zoo.templates import DOMAINS, Intent, affixes, domain, fill, frames
from cermet.zoo.typos import misspell, mistype
from cermet.zoo.utterances import PER_INTENT, generator_fingerprint, utterances

FROZEN = "9a1de9a59f4a872f"
"""The generator that the demo's parameters were chosen on. Whoever changes the generator on
purpose has to choose them again, and to run the demo with three seeds."""


def _frames(name: str, split: Split) -> set[str]:
    return {f for intent in domain(name).intents for f in _spelt(intent, split)}


def _spelt(intent: Intent, split: Split) -> set[str]:
    return {f for template in intent.templates[split] for f in frames(template)}


def _words(frame: str) -> set[str]:
    return set(re.findall(r"\{?\w+\}?", frame))


def test_generator_is_the_frozen_one() -> None:
    assert generator_fingerprint(0) == FROZEN


def test_every_domain_has_enough_of_everything() -> None:
    for name in DOMAINS:
        found = domain(name)
        assert found.name == name
        assert 10 <= len(found.intents) <= 15
        for intent in found.intents:
            counts = [len(set(intent.templates[split])) for split in SPLITS]
            assert counts[0] >= 14, intent.name
            assert counts[1] >= 4, intent.name
            assert counts[2] >= 6, intent.name


def test_no_frame_stands_in_two_places() -> None:
    for name in DOMAINS:
        seen: set[str] = set()
        for intent in domain(name).intents:
            seen_here = {intent.example}
            for split in SPLITS:
                for template in intent.templates[split]:
                    found = set(frames(template))
                    assert not found & (seen | seen_here), template
                    seen |= found
            seen |= seen_here


@pytest.mark.parametrize("split", ["validation", "test"])
def test_held_out_frames_are_not_train_frames_with_a_word_changed(split: Split) -> None:
    """Within an intent; "turn it on" and "turn it off" are two intents, and that is the task."""
    for name in DOMAINS:
        for intent in domain(name).intents:
            train = [_words(frame) for frame in _spelt(intent, "train")]
            for frame in _spelt(intent, split):
                words = _words(frame)
                assert all(len(words & t) < 0.7 * len(words | t) for t in train), frame


def test_openers_and_closers_are_of_one_split() -> None:
    found = [(set(affixes(s).openers), set(affixes(s).closers)) for s in SPLITS]
    for i in range(3):
        for j in range(i):
            assert not found[i][0] & found[j][0]
            assert not found[i][1] & found[j][1]


def test_no_utterance_is_in_two_splits() -> None:
    for name in DOMAINS:
        splits = [{u.text for u in utterances(name, split, 0)} for split in SPLITS]
        assert not splits[0] & splits[1]
        assert not splits[0] & splits[2]
        assert not splits[1] & splits[2]


def test_every_slot_has_words_and_is_used() -> None:
    for name in DOMAINS:
        found = domain(name)
        every = " ".join(f for split in SPLITS for f in _frames(name, split))
        assert set(re.findall(r"\{(\w+)\}", every)) == set(found.slots)


@pytest.mark.parametrize("split", SPLITS)
def test_each_intent_has_as_many_utterances_as_promised(split: Split) -> None:
    for name in DOMAINS:
        lines = utterances(name, split, 3)
        assert len({u.text for u in lines}) == len(lines)
        labels = [u.label for u in lines]
        for label in range(len(domain(name).intents)):
            assert labels.count(label) == PER_INTENT[split]
        assert not any("{" in u.text or "|" in u.text for u in lines)


def test_same_seed_same_utterances() -> None:
    assert utterances("bank", "test", 5) == utterances("bank", "test", 5)
    assert utterances("bank", "test", 5) != utterances("bank", "test", 6)
    assert generator_fingerprint(1) == generator_fingerprint(1) != FROZEN


def test_frames_take_every_choice() -> None:
    assert frames("(a|b) c (d|e)") == ["a c d", "a c e", "b c d", "b c e"]
    assert frames("no {choice}") == ["no {choice}"]


def test_a_slot_named_twice_gets_two_words() -> None:
    slots = {"city": ("oslo", "rome", "lima")}
    for seed in range(20):
        first, _, second = fill("{city} to {city}", slots, Random(seed)).split()
        assert first != second


def test_misspelling_is_one_edit_and_keeps_the_first_letter() -> None:
    for seed in range(300):
        wrong = misspell("letter", Random(seed))
        assert wrong[0] == "l"
        assert wrong != "letter"
        assert 5 <= len(wrong) <= 7
        if len(wrong) == 6:
            changed = [i for i in range(6) if wrong[i] != "letter"[i]]
            assert len(changed) in (1, 2)


def test_typing_errors_hit_as_many_plain_words_as_asked() -> None:
    text = "send 1000 euros to anna, or BOB12 tomorrow"
    for seed in range(100):
        random = Random(seed)
        wrong = mistype(text, 2, random).split()
        changed = [(a, b) for a, b in zip(text.split(), wrong, strict=True) if a != b]
        assert len(changed) == 2
        assert {a for a, _ in changed} <= {"send", "euros", "tomorrow"}
    assert mistype(text, 0, Random(0)) == text
    assert mistype("a bc 12", 3, Random(0)) == "a bc 12"
