"""CLINC150 and BANKING77: published requests, read and put into subjects."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from cermet.checkpoints.header import read_json
from cermet.core.errors import FormatError, InputError
from cermet.zoo.subjects import SPLITS, Split, Subject, Utterance, kept_apart

__all__ = ["BANKING", "WANTED", "clinc_subjects"]

WANTED = (
    "clinc150/data_full.json and clinc150/domains.json (folder data of clinc/oos-eval on GitHub, "
    "CC BY 3.0), banking77/train.csv and banking77/test.csv (folder banking_data of "
    "PolyAI-LDN/task-specific-datasets on GitHub, CC BY 4.0)"
)
"""What the folder of data has to hold, and where others get it."""

BANKING = "banking77"
"""The subject that no expert learns."""

_CLINC: Mapping[Split, str] = {"train": "train", "validation": "val", "test": "test"}
_TAKEN = 5  # texts of a banking intent that go from train, the only other list, to validation

# Texts of an intent that are measured: on 2 cores a model then takes some seconds for validation.
# The test of CLINC150 has 30 of each and stays whole.
_VALIDATION, _TEST = 7, 30
_BANKING_VALIDATION, _BANKING_TEST = 2, 10

_Rows = Mapping[Split, Sequence[tuple[str, str]]]
"""Text and intent, by split."""


def clinc_subjects(data: Path, seed: int) -> list[Subject]:
    """The domains of CLINC150 in the order of their file, and then BANKING77.

    The seed decides which training text of an intent the head is made of. The splits are those
    that were published, without what stands in two of them. Raises InputError where a file is
    missing, FormatError where one is damaged.
    """
    clinc, banking = data / "clinc150", data / BANKING
    domains, rows, more = _domains(clinc / "domains.json"), _clinc(clinc), _banking(banking)
    intents = {**domains, BANKING: sorted({intent for _, intent in more["train"]})}
    whole = [_subject(name, domains[name], rows) for name in domains]
    apart = kept_apart([*whole, _subject(BANKING, intents[BANKING], more)])
    found = []
    for subject in apart:
        folder = banking if subject.name == BANKING else clinc
        _check(subject, intents[subject.name], folder)
        headed = replace(subject, examples=_examples(subject, intents[subject.name], seed))
        found.append(_measured(headed))
    return found


def _measured(subject: Subject) -> Subject:
    """A subject with as many texts as are measured, the first ones of each intent."""
    if subject.name == BANKING:
        validation = _first(subject.validation, _BANKING_VALIDATION)
        test = _first(subject.test, _BANKING_TEST)
        return replace(subject, train=(), validation=validation, test=test)
    validation, test = _first(subject.validation, _VALIDATION), _first(subject.test, _TEST)
    return replace(subject, validation=validation, test=test)


def _first(rows: Sequence[Utterance], most: int) -> tuple[Utterance, ...]:
    seen: dict[int, int] = {}
    kept = []
    for row in rows:
        seen[row.label] = seen.get(row.label, 0) + 1
        if seen[row.label] <= most:
            kept.append(row)
    return tuple(kept)


def _examples(subject: Subject, intents: Sequence[str], seed: int) -> tuple[str, ...]:
    found = []
    for label, intent in enumerate(intents):
        texts = [u.text for u in subject.train if u.label == label]
        found.append(Random(f"{seed}/{subject.name}/{intent}").choice(texts))
    return tuple(found)


def _subject(name: str, intents: Sequence[str], rows: _Rows) -> Subject:
    labels = {intent: label for label, intent in enumerate(intents)}

    def of(split: Split) -> tuple[Utterance, ...]:
        return tuple(Utterance(t, labels[intent]) for t, intent in rows[split] if intent in labels)

    return Subject(name, (), of("train"), of("validation"), of("test"))


def _check(subject: Subject, intents: Sequence[str], folder: Path) -> None:
    for split in SPLITS:
        labels = {u.label for u in getattr(subject, split)}
        for label, intent in enumerate(intents):
            if label not in labels:
                raise FormatError(
                    f"'{folder}' holds no text of the intent '{intent}' for {split} that is not "
                    "in another split too; take the files as they were published."
                )


def _clinc(folder: Path) -> _Rows:
    file = folder / "data_full.json"
    lists = read_json(_there(file), "the data set")
    rows: dict[Split, list[tuple[str, str]]] = {}
    for split, key in _CLINC.items():
        pairs = lists.get(key)
        if not isinstance(pairs, list) or not all(map(_is_pair, pairs)):
            raise FormatError(f"'{file}': '{key}' is not a list of pairs of a text and an intent.")
        rows[split] = [(" ".join(text.split()), intent) for text, intent in pairs]
    return rows


def _is_pair(found: Any) -> bool:
    return isinstance(found, list) and len(found) == 2 and all(isinstance(t, str) for t in found)


def _domains(file: Path) -> dict[str, list[str]]:
    found = read_json(_there(file), "the list of domains")
    for name, intents in found.items():
        if not isinstance(intents, list) or not all(isinstance(i, str) for i in intents):
            raise FormatError(f"'{file}': '{name}' is not a list of intents.")
    if not found:
        raise FormatError(f"'{file}' names no domain.")
    return found


def _banking(folder: Path) -> _Rows:
    train, test = _table(folder / "train.csv"), _table(folder / "test.csv")
    unknown = {intent for _, intent in test} - {intent for _, intent in train}
    if unknown:
        raise FormatError(
            f"'{folder / 'test.csv'}' has the category '{min(unknown)}', which train.csv has not."
        )
    kept: list[tuple[str, str]] = []
    validation: list[tuple[str, str]] = []
    seen: dict[str, int] = {}
    for text, intent in train:
        seen[intent] = seen.get(intent, 0) + 1
        (validation if seen[intent] <= _TAKEN else kept).append((text, intent))
    return {"train": kept, "validation": validation, "test": test}


def _table(file: Path) -> list[tuple[str, str]]:
    try:
        with _there(file).open(encoding="utf-8", newline="") as stream:
            rows = list(csv.reader(stream, strict=True))
    except (OSError, ValueError, csv.Error) as error:
        raise FormatError(f"'{file}' cannot be read as CSV: {error}.") from error
    if not rows or rows[0] != ["text", "category"]:
        raise FormatError(f"'{file}' does not begin with the columns text,category.")
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != 2:
            raise FormatError(f"'{file}': row {number} has {len(row)} columns, not 2.")
    return [(" ".join(text.split()), category) for text, category in rows[1:]]


def _there(file: Path) -> Path:
    if not file.is_file():
        raise InputError(f"'{file}' is missing. The pool 'intents' needs --data with {WANTED}.")
    return file
