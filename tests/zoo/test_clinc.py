"""CLINC150 and BANKING77 as subjects: splits that share nothing, and damaged files."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import pytest

from cermet.core.errors import CermetError, FormatError, InputError
from cermet.recipes.pool import read_pool
from cermet.zoo.catalogue import Wanted, find_entry
from cermet.zoo.clinc import BANKING, clinc_subjects
from cermet.zoo.steps import build
from cermet.zoo.subjects import SPLITS, Subject, kept_apart, plain
from tests.cli.commands import Cermet

_PUBLISHED = Path(__file__).resolve().parents[3] / "shared" / "data"

_DOMAINS = {"banking": ["freeze", "transfer"], "small_talk": ["greeting", "joke"]}
_ASKED = {
    "freeze": "block card number {}",
    "transfer": "send {} euros to anna",
    "greeting": "hello there for time {}",
    "joke": "tell joke number {} please",
}


def _data(folder: Path) -> Path:
    """Both data sets with some texts of four and of two intents."""
    counts = {"train": range(6), "val": range(10, 13), "test": range(20, 23)}
    lists = {
        split: [[text.format(i), intent] for intent, text in _ASKED.items() for i in numbers]
        for split, numbers in counts.items()
    }
    lists["train"].append(["Hello there, for time 20!", "greeting"])  # stands in test too
    lists["val"].append(["tell  joke number 21 please", "joke"])
    lists["train"].append(["what is card fee 31?", "freeze"])  # a test of the other data set
    _write_clinc(folder, lists, _DOMAINS)
    for split, numbers in {"train": range(12), "test": range(30, 33)}.items():
        rows = [[f"what is {k} fee {i}?", f"{k}_fee"] for k in ("card", "cash") for i in numbers]
        _write_banking(folder / "banking77" / f"{split}.csv", rows)
    return folder


def _write_clinc(folder: Path, lists: object, domains: object) -> None:
    (folder / "clinc150").mkdir(parents=True, exist_ok=True)
    (folder / "clinc150/data_full.json").write_text(json.dumps(lists))
    (folder / "clinc150/domains.json").write_text(json.dumps(domains))


def _write_banking(file: Path, rows: Sequence[Sequence[str]]) -> None:
    file.parent.mkdir(exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["text", "category"], *rows])


def _texts(subject: Subject) -> Mapping[str, set[str]]:
    return {split: {plain(u.text) for u in getattr(subject, split)} for split in SPLITS}


def test_domains_in_the_order_of_the_file_and_then_banking(tmp_path: Path) -> None:
    found = clinc_subjects(_data(tmp_path), 0)
    assert [s.name for s in found] == ["banking", "small_talk", BANKING]
    assert [len(s.examples) for s in found] == [2, 2, 2]
    banking, talk, other = found
    assert [(u.text, u.label) for u in banking.test][3] == ("send 20 euros to anna", 1)
    assert (len(banking.train), len(talk.train), len(other.train)) == (12, 12, 0)
    assert (len(banking.validation), len(talk.validation), len(other.validation)) == (6, 6, 4)
    assert [u.label for u in other.validation] == [0, 0, 1, 1]
    assert other.test[0].text == "what is card fee 30?"


def test_seed_chooses_the_examples_and_nothing_else(tmp_path: Path) -> None:
    data = _data(tmp_path)
    first, again, other = (clinc_subjects(data, seed) for seed in (0, 0, 1))
    assert first == again
    assert [s.examples for s in first] != [s.examples for s in other]
    assert [s.train for s in first] == [s.train for s in other]
    for subject in first[:2]:
        texts = {(u.text, u.label) for u in subject.train}
        assert {(text, i) for i, text in enumerate(subject.examples)} <= texts


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_text_is_in_two_splits_of_the_published_files(seed: int) -> None:
    found = clinc_subjects(_PUBLISHED, seed)
    assert [len(s.examples) for s in found] == [15] * 10 + [77]
    assert [len(s.test) for s in found] == [450] * 10 + [770]
    assert [len(s.validation) for s in found] == [105] * 10 + [154]
    assert all(len(s.train) > 1470 for s in found[:-1])
    texts = {split: set().union(*(_texts(s)[split] for s in found)) for split in SPLITS}
    texts["train"] |= {plain(text) for s in found for text in s.examples}
    for one, other in combinations(SPLITS, 2):
        assert not texts[one] & texts[other]


def test_validation_gives_way_to_test_and_train_to_both(tmp_path: Path) -> None:
    found = clinc_subjects(_data(tmp_path), 0)
    texts = {split: set().union(*(_texts(s)[split] for s in found)) for split in SPLITS}
    assert "hello there for time 20" in texts["test"]
    assert "what is card fee 31" in texts["test"]
    assert not texts["test"] & (texts["train"] | texts["validation"])
    assert kept_apart(found) == found


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


_PAIRS = {"train": [["a", "b", "c"]], "val": [], "test": []}


@pytest.mark.parametrize(
    ("kind", "damage", "said"),
    [
        (InputError, lambda d: (d / "clinc150/domains.json").unlink(), "domains.json' is missing"),
        (InputError, lambda d: (d / "banking77/test.csv").unlink(), "test.csv' is missing"),
        (FormatError, lambda d: _truncate(d / "clinc150/data_full.json"), "not valid JSON"),
        (FormatError, lambda d: _write_clinc(d, _PAIRS, _DOMAINS), "'train' is not a list of pai"),
        (FormatError, lambda d: _write_clinc(d, {}, _DOMAINS), "'train' is not a list of pairs"),
        (FormatError, lambda d: _write_clinc(d, {}, {}), "names no domain"),
        (FormatError, lambda d: _write_clinc(d, {}, {"a": 3}), "'a' is not a list of intents"),
        (
            FormatError,
            lambda d: (d / "clinc150/domains.json").write_text('{"banking": ["freez"]}'),
            "no text of the intent 'freez' for train",
        ),
        (
            FormatError,
            lambda d: _write_banking(d / "banking77/test.csv", [["one column"]]),
            "row 2 has 1 columns",
        ),
        (
            FormatError,
            lambda d: _write_banking(d / "banking77/test.csv", [["of whom?", "new_fee"]]),
            "has the category 'new_fee', which",
        ),
        (
            FormatError,
            lambda d: (d / "banking77/train.csv").write_text("intent,text\n"),
            "does not begin with the columns",
        ),
        (
            FormatError,
            lambda d: (d / "banking77/train.csv").write_bytes(b"text,category\n\xff\xfe,x\n"),
            "cannot be read as CSV",
        ),
    ],
)  # fmt: skip
def test_a_missing_or_damaged_file_is_one_sentence(
    tmp_path: Path, kind: type[CermetError], damage: object, said: str
) -> None:
    data = _data(tmp_path)
    damage(data)  # type: ignore[operator]
    with pytest.raises(kind, match=said):
        find_entry("intents").draw(Wanted(data=data))


def test_the_pool_is_refused_without_data_before_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cermet = Cermet(monkeypatch, capsys)
    ended = cermet("zoo", "build", "intents", "--out", tmp_path / "pool")
    assert ended.code == 2
    assert "needs --data: a folder with clinc150/data_full.json" in ended.said
    assert "clinc/oos-eval" in ended.said
    assert not (tmp_path / "pool").exists()


def test_the_pool_is_built_from_a_folder_of_data(tmp_path: Path) -> None:
    data, entry = _data(tmp_path / "data"), find_entry("intents")
    more = entry.draw(Wanted(1, ("adapters",), data))
    assert [step.name for step in more.steps] == [
        "base", "tasks", "experts/banking", "experts/small_talk", "multi_task",
        "adapters/banking", "adapters/small_talk",
    ]  # fmt: skip
    built = build(entry.draw(Wanted(1, data=data)), tmp_path / "pool")
    assert list(built.made) == [step.name for step in more.steps][:5]
    pool = read_pool(tmp_path / "pool")
    assert list(pool.experts) == ["banking", "small_talk"]
    assert [(t.name, t.expert) for t in pool.tasks][-1] == (BANKING, None)
    assert "CC BY 3.0" in (tmp_path / "pool/experts/banking/README.md").read_text()
