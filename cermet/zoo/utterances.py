"""Utterances: templates filled, framed and mistyped; the same ones for the same seed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from random import Random

from cermet.zoo.subjects import SPLITS, Split, Utterance
from cermet.zoo.templates import DOMAINS, Domain, Intent, affixes, domain, fill, frames
from cermet.zoo.typos import mistype

__all__ = ["PER_INTENT", "generator_fingerprint", "utterances"]

PER_INTENT: dict[Split, int] = {"train": 100, "validation": 20, "test": 24}
"""How many utterances of each intent a split holds."""

_OPENED, _CLOSED = 0.4, 0.3  # share of utterances with something before and after
_ERRORS = (0, 0, 0, 0, 0, 0, 0, 1, 1, 1)  # typing errors, each count as likely as it stands here
_ATTEMPTS = 200


def utterances(
    name: str, split: Split, seed: int, per_intent: int | None = None
) -> list[Utterance]:
    """The utterances of a domain, `per_intent` different ones of each intent.

    All templates of a split are used about equally often. The order is by intent.
    """
    found = domain(name)
    count = PER_INTENT[split] if per_intent is None else per_intent
    return [
        Utterance(text, label)
        for label, intent in enumerate(found.intents)
        for text in _of_intent(found, intent, split, seed, count)
    ]


def _of_intent(found: Domain, intent: Intent, split: Split, seed: int, count: int) -> list[str]:
    random = Random(f"{seed}/{found.name}/{intent.name}/{split}")
    pool = list(intent.templates[split])
    texts: dict[str, None] = {}
    for attempt in range(count * _ATTEMPTS):
        if len(texts) == count:
            break
        if attempt % len(pool) == 0:
            random.shuffle(pool)
        texts[_spoken(found, pool[attempt % len(pool)], split, random)] = None
    return list(texts)


def _spoken(found: Domain, template: str, split: Split, random: Random) -> str:
    around = affixes(split)
    text = fill(random.choice(frames(template)), found.slots, random)
    if random.random() < _OPENED:
        text = random.choice(around.openers) + text
    if random.random() < _CLOSED:
        text += random.choice(around.closers)
    return mistype(text, random.choice(_ERRORS), random)


def generator_fingerprint(seed: int, names: Sequence[str] = DOMAINS) -> str:
    """A digest of the examples, and of all utterances of a seed with their labels."""
    digest = hashlib.sha256()
    for name in names:
        for intent in domain(name).intents:
            digest.update(f"{name}/{intent.name}/{intent.example}\n".encode())
        for split in SPLITS:
            for spoken in utterances(name, split, seed):
                digest.update(f"{name}/{split}/{spoken.label}/{spoken.text}\n".encode())
    return digest.hexdigest()[:16]
