"""The pool `strings`: what is asked, that no split knows another's strings, and a tiny build."""

from __future__ import annotations

import json
import shutil
from functools import partial
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cermet.evaluate.evaluator import Evaluator
from cermet.inference.threads import with_threads
from cermet.recipes.pool import Pool, read_pool
from cermet.zoo import decoder
from cermet.zoo.catalogue import Wanted, find_entry
from cermet.zoo.decoder import Shape, course
from cermet.zoo.letters import letter_tokens
from cermet.zoo.operations import ELEMENTARY, OPERATIONS, asked, part_of, strings
from cermet.zoo.steps import Built, build
from cermet.zoo.strings import OWN, Settings, blueprint
from cermet.zoo.texts import SPLITS

_FEW = course(steps=2, batch=4, rate=1e-3)
_TINY = Settings(
    shape=Shape(width=16, layers=1, heads=2, inner=16, positions=32),
    base=_FEW, expert=_FEW, multi_task=_FEW, adapter=_FEW, validation=6, test=11,
)  # fmt: skip

FROZEN = "4ccf58452cd0ce45"
"""The questions of seed 0 that the documented numbers are of. Whoever changes them on purpose
raises `_LINES`, so that pools are built anew, and measures the pool again."""


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("reverse", "czadb"),
        ("sort", "abcdz"),
        ("shift", "cebad"),
        ("rotate", "azcbd"),
        ("swap", "dbzac"),
        ("fold", "bcdza"),
        ("reverse_shift", "dabec"),
        ("sort_rotate", "cdzab"),
        ("copy", "bdazc"),
        ("first", "b"),
        ("second", "d"),
        ("third", "a"),
        ("last", "c"),
        ("tail", "dazc"),
        ("head", "bdaz"),
        ("next", "c"),
        ("before", "a"),
        ("least", "a"),
        ("most", "z"),
    ],
)
def test_each_operation_by_hand(name: str, answer: str) -> None:
    question = asked(name, "bdazc")
    assert (question.prompt, question.answer) == (f"{name}: bdazc = ", answer)


def test_the_operations_by_hand_are_all_there_are_and_differ() -> None:
    every = {**OPERATIONS, **ELEMENTARY}
    assert len(every) == len(OPERATIONS) + len(ELEMENTARY) == 19
    for text in ("kdmw", "kdmwq", "kdmwqa"):
        answers = {name: asked(name, text).answer for name in OPERATIONS}
        assert len(set(answers.values())) == len(answers), "two experts do one thing"
        assert not set(answers.values()) & {asked(n, text).answer for n in ELEMENTARY}


def test_no_string_is_in_two_splits_whatever_it_is_drawn_for() -> None:
    drawn = {
        part: {
            text
            for seed in (0, 1)
            for purpose in ("reverse", "sort")
            for text in strings(part, 2000, seed, purpose)
        }
        for part in SPLITS
    }
    for part, texts in drawn.items():
        assert {part_of(text) for text in texts} == {part}
        assert len(texts) > 7000, "seeds and purposes hardly share strings"
        assert {len(text) for text in texts} == {4, 5, 6}
    assert not drawn["train"] & drawn["validation"]
    assert not drawn["train"] & drawn["test"]
    assert not drawn["validation"] & drawn["test"]


def test_a_letter_is_one_token_and_so_is_a_name() -> None:
    tokens = letter_tokens("abc\n", [" = ", "sort: "])
    (row,) = tokens.encode(["sort: cab = abc\n"])
    assert len(row) == 1 + 3 + 1 + 3 + 1
    assert tokens.tokenizer.decode(row) == "sort: cab = abc\n"
    prompt, answer = tokens.encode(["sort: cab = ", "abc\n"])
    assert prompt + answer == row
    unknown = tokens.tokenizer.token_to_id("<unk>")
    assert tokens.encode(["sort:aé"]) == [[*[unknown] * 5, row[2], unknown]]


def _build(folder: Path, *extras: str, seed: int = 0) -> Built:
    """On one thread: matrices as small as these are slower on two, and very slow beside others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoder, "fixed_threads", partial(with_threads, 1))
        return build(blueprint(Wanted(seed, extras), _TINY), folder)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _build(tmp_path_factory.mktemp("strings") / "pool", "adapters").folder


@pytest.fixture(scope="module")
def pool(built: Path) -> Pool:
    return read_pool(built)


def test_the_pool_names_what_was_built(pool: Pool) -> None:
    assert list(pool.experts) == list(pool.adapters) == list(OPERATIONS)
    assert [task.name for task in pool.tasks] == [*OPERATIONS, OWN]
    assert [task.expert for task in pool.tasks] == [*OPERATIONS, None]
    assert pool.multi_task is not None
    for model in (pool.base, pool.multi_task, *pool.experts.values(), *pool.adapters.values()):
        assert "license: apache-2.0" in (Path(model) / "README.md").read_text()


def test_questions_are_of_their_split_and_frozen(pool: Pool) -> None:
    for task in pool.tasks:
        for part, count in (("validation", 6), ("test", 11)):
            rows = [json.loads(line) for line in task.files[part].read_text().splitlines()]
            assert len(rows) == count
            for row in rows:
                name, text = row["prompt"].removesuffix(" = ").split(": ")
                assert part_of(text) == part
                assert name == task.name or (task.name == OWN and name in ELEMENTARY)
                assert row == {"prompt": f"{name}: {text} = ", "answer": asked(name, text).answer}
    lines = [strings(part, 50, 0, name) for part in SPLITS for name in OPERATIONS]
    assert sha256(json.dumps(lines).encode()).hexdigest()[:16] == FROZEN


def test_models_answer_their_questions(pool: Pool) -> None:
    evaluator = Evaluator(pool.tasks)
    found = evaluator.outcomes(Path(pool.experts["sort"]), "sort", "test")
    assert len(found.scores) == 11
    assert pool.tasks[0].max_tokens > 6


def test_an_expert_is_the_base_tuned(pool: Pool) -> None:
    base, expert = Path(pool.base), Path(pool.experts["sort"])
    before, after = (load_file(f / "model.safetensors") for f in (base, expert))
    assert {n: t.shape for n, t in before.items()} == {n: t.shape for n, t in after.items()}
    assert not any(torch.equal(before[n], after[n]) for n in before)
    assert (base / "tokenizer.json").read_bytes() == (expert / "tokenizer.json").read_bytes()


def test_same_seed_same_bytes_and_another_seed_others(pool: Pool, tmp_path: Path) -> None:
    again = read_pool(_build(tmp_path / "again").folder)
    other = read_pool(_build(tmp_path / "other", seed=1).folder)
    for name in ("reverse", "sort_rotate"):
        files = [Path(p.experts[name]) / "model.safetensors" for p in (pool, again, other)]
        same, twin, different = (file.read_bytes() for file in files)
        assert same == twin != different
    tests = [p.tasks[0].files["test"].read_bytes() for p in (pool, again, other)]
    assert tests[0] == tests[1] != tests[2]


def test_a_build_that_was_stopped_goes_on(built: Path) -> None:
    shutil.rmtree(built / "experts/sort")
    assert _build(built, "adapters").made == ("experts/sort",)
    assert _build(built, "adapters").made == ()


def test_adapters_that_were_built_stay_in_the_pool(pool: Pool, built: Path) -> None:
    assert _build(built).made == ()
    assert read_pool(built) == pool


def test_the_catalogue_knows_it() -> None:
    steps = find_entry("strings").draw(Wanted()).steps
    assert [s.name for s in steps][:2] == ["tasks", "base"]
    assert sum(step.asked for step in steps) == 3 + len(OPERATIONS)
