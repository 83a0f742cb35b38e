"""Subjects: texts of one domain in three splits, and the texts that its frozen head is made of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from cermet.core.fingerprint import sha256_hex

__all__ = [
    "SPLITS",
    "Split",
    "Subject",
    "Utterance",
    "digest",
    "kept_apart",
    "plain",
    "write_texts",
]

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
"""Experts learn from train, methods are chosen on validation, what is reported is of test."""


@dataclass(frozen=True)
class Utterance:
    """One request, and the place of its intent in the subject's list."""

    text: str
    label: int


@dataclass(frozen=True)
class Subject:
    """What an expert is tuned for.

    examples: one text for each label; the base's embeddings of them are the head. train: empty
    where no expert is tuned, and the subject is there to be measured only.
    """

    name: str
    examples: tuple[str, ...]
    train: tuple[Utterance, ...]
    validation: tuple[Utterance, ...]
    test: tuple[Utterance, ...]


def plain(text: str) -> str:
    """A text without what two writings of one sentence differ in: case, signs, spaces.

    >>> plain("What's  my balance?")
    'whats my balance'
    """
    kept = "".join(c for c in text.lower() if c.isalnum() or c.isspace())
    return " ".join(kept.split())


def kept_apart(subjects: Sequence[Subject]) -> list[Subject]:
    """The subjects without texts that another split of any of them holds, by their plain form.

    Test stays whole; validation gives way to test, and train to both.
    """
    test = {plain(u.text) for s in subjects for u in s.test}
    validation = {plain(u.text) for s in subjects for u in s.validation}

    def without(rows: Sequence[Utterance], taken: set[str]) -> tuple[Utterance, ...]:
        return tuple(u for u in rows if plain(u.text) not in taken)

    return [
        replace(
            s, train=without(s.train, test | validation), validation=without(s.validation, test)
        )
        for s in subjects
    ]


def digest(subjects: Sequence[Subject]) -> str:
    """A digest of everything that the subjects hold."""
    found = [[s.name, s.examples, *(_rows(s, split) for split in SPLITS)] for s in subjects]
    return sha256_hex(json.dumps(found).encode())[:16]


def write_texts(subject: Subject, folder: Path) -> None:
    """Write each split that is not empty as `NAME.SPLIT.jsonl`."""
    for split in SPLITS:
        rows = [{"text": text, "label": label} for text, label in _rows(subject, split)]
        if rows:
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (folder / f"{subject.name}.{split}.jsonl").write_text(lines, "utf-8")


def _rows(subject: Subject, split: Split) -> list[tuple[str, int]]:
    found: tuple[Utterance, ...] = getattr(subject, split)
    return [(u.text, u.label) for u in found]
