"""The file of texts: its forms, its errors, and what is held back."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cermet import FormatError, InputError
from cermet.inference.texts import Example
from cermet.learn.examples import part, read_examples


def _written(folder: Path, text: str) -> Path:
    path = folder / "data.jsonl"
    path.write_text(text, "utf-8")
    return path


def test_texts_and_labels(tmp_path: Path) -> None:
    lines = '{"text": "ä b", "label": "cat"}\n\n  \n{"label": 1, "text": "c"}'
    found = read_examples(_written(tmp_path, lines))
    assert found == [Example("ä b", "cat"), Example("c", 1)]


def test_a_line_separator_inside_a_text_ends_no_line(tmp_path: Path) -> None:
    assert read_examples(_written(tmp_path, '{"text": "a\u2028b"}')) == [Example("a\u2028b")]


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_no_examples(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match="holds no examples"):
        read_examples(_written(tmp_path, text))


def test_no_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(InputError, match="The data"):
            read_examples(path)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("text", "is written"),
        ("[1]", "is written"),
        ("{", "is written"),
        ("[" * 100_000, "is written"),
        ('{"text": 3}', "is written"),
        ('{"label": 3}', "is written"),
        ('{"text": "a", "lable": 3}', "is written"),
        ('{"text": " "}', "is empty"),
        ('{"text": "a", "label": 1.5}', "a label is"),
        ('{"text": "a", "label": true}', "a label is"),
        ('{"text": "a", "label": null}', "a label is"),
        ('{"text": "a", "label": 3}', "some examples have a label"),
    ],
)
def test_what_is_no_example(tmp_path: Path, line: str, said: str) -> None:
    path = _written(tmp_path, f'{{"text": "fine"}}\n{line}\n')
    with pytest.raises(FormatError, match=said) as caught:
        read_examples(path)
    if not said.startswith("some"):
        assert str(caught.value).startswith(f"{path}:2: ")


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'{"text": "\xff"}')
    with pytest.raises(FormatError, match=":1: "):
        read_examples(path)


@given(st.lists(st.sampled_from("abcdefgh"), min_size=2), st.integers(0, 99))
def test_no_text_is_learnt_from_and_reported_on(texts: list[str], seed: int) -> None:
    examples = [Example(text) for text in texts]
    if len(set(texts)) < 2:
        with pytest.raises(InputError, match="two different texts"):
            part(examples, seed)
        return
    parted = part(examples, seed)
    assert not {e.text for e in parted.learn} & {e.text for e in parted.report}
    assert sorted(e.text for e in parted.learn + parted.report) == sorted(texts)
    assert parted.learn
    assert len({e.text for e in parted.report}) == max(1, len(set(texts)) // 5)
    assert part(examples, seed) == parted
