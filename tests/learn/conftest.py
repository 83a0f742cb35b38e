"""The texts of this folder, made once: tests only read them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.learn.pools import CATS, DOGS, sentences, write_lines


@pytest.fixture(scope="session")
def cats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts of the kind that the first of the Llamas knows."""
    texts = sentences(CATS, 40, seed=1)
    return write_lines(tmp_path_factory.mktemp("data") / "cats.jsonl", [{"text": t} for t in texts])


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [
        {"text": text, "label": name}
        for name, words in (("cat", CATS), ("dog", DOGS))
        for text in sentences(words, 20, seed=2)
    ]
    return write_lines(tmp_path_factory.mktemp("data") / "labelled.jsonl", rows)
