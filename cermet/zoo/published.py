"""Domains of text from published data sets, read from the folder that a user gives."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cermet.core.errors import FormatError, InputError
from cermet.core.fingerprint import sha256_hex
from cermet.zoo.cards import CLINC150, GSM8K
from cermet.zoo.texts import Document, Part, Source, chance

__all__ = ["PUBLISHED", "Published", "found_in"]

_TOGETHER = 6  # requests in a document


@dataclass(frozen=True)
class Published:
    """A domain of a data set. files: below the folder of data. data: for cards."""

    files: tuple[str, ...]
    data: str
    read: Any

    def source(self, folder: Path) -> Source:
        """The documents in a folder of data."""
        return partial(self.read, folder)

    def digest(self, folder: Path) -> str:
        """Tells one state of the files from another."""
        return sha256_hex(b"".join((folder / name).read_bytes() for name in self.files))[:16]


def problems(folder: Path, seed: int) -> Iterator[Document]:
    """Word problems and their solutions of gsm8k, without its marks for a calculator.

    The published test set is test; the seed parts the rest into training and validation.
    """
    for name in random.Random(seed).sample(("train", "test"), 2):
        file = folder / "gsm8k" / f"{name}.jsonl"
        rows = [_row(line, file) for line in file.read_text("utf-8").splitlines()]
        for question, answer in random.Random(seed).sample(rows, len(rows)):
            text = f"{question}\n{re.sub('<<.*?>>', '', answer)}\n"
            split: Part = "test"
            if name == "train":
                split = "validation" if chance(seed, question) == "validation" else "train"
            yield Document(split, question, text)


def _row(line: str, file: Path) -> tuple[str, str]:
    try:
        found = json.loads(line)
        return str(found["question"]), str(found["answer"])
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(
            f"'{file}' holds a line that is no object with 'question' and 'answer'; "
            "get the file again from its publisher."
        ) from error


def requests(folder: Path, seed: int) -> Iterator[Document]:
    """Requests to an assistant from CLINC150, some in a document, one a line; its own splits.

    A request that stands in more than one split is kept in the first of test, validation, train.
    """
    file = folder / "clinc150" / "data_full.json"
    try:
        found = json.loads(file.read_text("utf-8"))
        names: Sequence[tuple[Part, str]] = (
            ("test", "test"), ("validation", "val"), ("train", "train"),
        )  # fmt: skip
        rows = {split: [str(text) for text, _ in found[name]] for split, name in names}
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(
            f"'{file}' does not hold 'train', 'val' and 'test' with pairs of text and intent; "
            "get the file again from its publisher."
        ) from error
    seen: set[str] = set()
    documents = []
    for split, texts in rows.items():
        new = [text for text in dict.fromkeys(texts) if text not in seen]
        seen.update(new)
        order = random.Random(seed).sample(new, len(new))
        for i in range(0, len(order), _TOGETHER):
            text = "".join(f"{row}\n" for row in order[i : i + _TOGETHER])
            documents.append(Document(split, f"{split} {i}", text))
    yield from random.Random(seed).sample(documents, len(documents))


PUBLISHED: Mapping[str, Published] = {
    "problems": Published(("gsm8k/train.jsonl", "gsm8k/test.jsonl"), GSM8K, problems),
    "requests": Published(("clinc150/data_full.json",), CLINC150, requests),
}
"""Domains by name, in the order in which a pool has them."""


def found_in(folder: Path) -> Mapping[str, Published]:
    """The domains whose data is in the folder; InputError where there is none of any."""
    found = {
        name: one
        for name, one in PUBLISHED.items()
        if all((folder / file).is_file() for file in one.files)
    }
    if not found:
        files = "; ".join(", ".join(one.files) for one in PUBLISHED.values())
        raise InputError(f"'{folder}' holds no data for this pool; it can hold {files}.")
    return found
