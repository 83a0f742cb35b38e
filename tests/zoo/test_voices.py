"""The pool `voices`, tiny: whole folders, the same bytes each time, and splits that stay apart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from itertools import combinations, islice
from pathlib import Path
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file

from cermet import plan
from cermet.core.errors import FormatError, InputError
from cermet.inference.threads import with_threads
from cermet.recipes.pool import read_pool
from cermet.zoo import decoder
from cermet.zoo.cache import MARK
from cermet.zoo.catalogue import Wanted, find_entry
from cermet.zoo.decoder import Shape, course
from cermet.zoo.installed import DOMAINS, arithmetic, technical
from cermet.zoo.published import found_in
from cermet.zoo.steps import Built, build
from cermet.zoo.texts import SPLITS, Amounts, Source, chance, divide
from cermet.zoo.tokens import Tokens
from cermet.zoo.voices import OWN, Settings, blueprint

_COURSE = course(steps=3, batch=2, rate=1e-2)
_SHAPE = Shape(width=16, layers=2, heads=2, inner=24, positions=256)
_TINY = Settings(
    shape=_SHAPE,
    small=Shape(width=8, layers=1, heads=1, inner=16, positions=256),
    large=Shape(width=24, layers=2, heads=3, inner=32, positions=256),
    vocabulary=280,
    length=32,
    own=6_000,
    amounts=Amounts(3_000, held=600),
    base=_COURSE,
    weak=course(steps=1, batch=2, rate=1e-2),
    expert=_COURSE,
    multi_task=_COURSE,
    adapter=_COURSE,
)
_EXTRAS = ("adapters", "sizes", "second-base", "weak-base", "direct")
_NAMES = (*DOMAINS, "problems", "requests")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of data in the form of gsm8k and CLINC150; a request stands in two splits."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "gsm8k").mkdir()
    (folder / "clinc150").mkdir()
    for name, count in (("train", 60), ("test", 20)):
        rows = [
            {"question": f"Ann of {name} has {i} pears.", "answer": f"<<{i}+1={i + 1}>>{i + 1}"}
            for i in range(count)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "gsm8k" / f"{name}.jsonl").write_text(text)
    splits = {
        name: [[f"{name} request {i}", "intent"] for i in range(120)]
        for name in ("train", "val", "test")
    }
    splits["train"].append(["test request 7", "intent"])
    (folder / "clinc150" / "data_full.json").write_text(json.dumps(splits))
    return folder


def _built(root: Path, wanted: Wanted) -> Built:
    """On one thread: small matrices are slower on two, and very slow beside other work."""
    with mock.patch.object(decoder, "fixed_threads", partial(with_threads, 1)):
        return build(blueprint(wanted, _TINY), root)


@pytest.fixture(scope="module")
def pool(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("voices")
    _built(root, Wanted(0, _EXTRAS, data))
    return root


def _bytes(root: Path) -> dict[str, bytes]:
    files = (f for f in root.rglob("*") if f.is_file() and f.name != MARK)  # it holds seconds
    return {str(f.relative_to(root)): f.read_bytes() for f in files}


def test_two_builds_give_the_same_bytes(pool: Path, data: Path, tmp_path: Path) -> None:
    _built(tmp_path, Wanted(0, ("adapters", "direct"), data))  # one of each kind of step
    first, again = _bytes(pool), _bytes(tmp_path)
    assert {name for name in again if again[name] != first.get(name)} == set()
    made = {"direct/experts/names/model.safetensors", "adapters/names/adapter_model.safetensors"}
    assert made <= again.keys()


def test_a_build_goes_on_where_it_was_stopped(pool: Path, data: Path) -> None:
    wanted = Wanted(0, _EXTRAS, data)
    assert _built(pool, wanted).made == ()
    (pool / "experts/names" / MARK).unlink()
    (pool / "experts/names").rename(pool / "elsewhere")
    assert _built(pool, wanted).made == ("experts/names",)
    weights = "model.safetensors"
    before, after = pool / "elsewhere" / weights, pool / "experts/names" / weights
    assert before.read_bytes() == after.read_bytes()


def test_another_seed_is_another_pool(pool: Path, tmp_path: Path) -> None:
    _built(tmp_path, Wanted(1))
    assert [*read_pool(tmp_path).experts] == [*DOMAINS]  # without data, what Python holds
    first, other = _bytes(pool), _bytes(tmp_path)
    for name in ("base/model.safetensors", "tasks/python.test.jsonl", "tasks/names.test.jsonl"):
        assert first[name] != other[name]


def test_pools_name_what_there_is(pool: Path) -> None:
    found = {place: read_pool(pool / place) for place in ("", "sizes/small", "sizes/large")}
    second, weak, direct = (read_pool(pool / place) for place in ("second", "weak", "direct"))
    for one in (*found.values(), second, weak, direct):
        assert tuple(one.experts) == _NAMES
        assert [task.name for task in one.tasks] == [*_NAMES, OWN]
        assert [task.expert for task in one.tasks] == [*_NAMES, None]
        assert all(Path(model).is_dir() for model in (one.base, *one.experts.values()))
        assert (one.multi_task is None) == (one is direct)
    assert tuple(found[""].adapters) == _NAMES
    names = [one.name for one in (*found.values(), second, weak, direct)]
    more = ("sizes-small", "sizes-large", "second", "weak", "direct")
    assert names == ["voices", *(f"voices-{name}" for name in more)]
    base, other = (load_file(Path(p.base) / "model.safetensors") for p in (found[""], second))
    assert base.keys() == other.keys()
    assert not torch.equal(base["model.norm.weight"], other["model.norm.weight"])
    files = [Path(p.base) / "tokenizer.json" for p in (found[""], second, found["sizes/small"])]
    assert len({file.read_bytes() for file in files}) == 1


def _weights(model: str | Path) -> torch.Tensor:
    held = load_file(Path(model) / "model.safetensors")
    return torch.cat([held[name].flatten() for name in sorted(held)])


def test_a_weak_base_has_gone_less_far_from_the_same_start(pool: Path, tmp_path: Path) -> None:
    tokens = Tokens.load(pool / "base")
    decoder.save(decoder.make(_SHAPE, tokens, 0), tokens, tmp_path)
    start, weak, whole = (_weights(m) for m in (tmp_path, pool / "weak/base", pool / "base"))
    assert 0 < (weak - start).norm() < (whole - start).norm()


@pytest.mark.parametrize(("place", "origin"), [("weak", "weak/base"), ("direct", "multi_task")])
def test_experts_of_another_base_are_tuned_from_it(place: str, origin: str, pool: Path) -> None:
    extra = {"weak": "weak-base", "direct": "direct"}[place]
    steps = {step.name: step for step in blueprint(Wanted(0, (extra,)), _TINY).steps}
    other = read_pool(pool / place)
    assert Path(other.base).samefile(pool / origin)
    for name in DOMAINS:
        step, first = steps[f"{place}/experts/{name}"], steps[f"experts/{name}"]
        assert step.after == (origin,)
        assert step.stands == first.stands  # the same course on the same texts
        moved, same = _weights(other.experts[name]), _weights(pool / "experts" / name)
        assert not torch.equal(moved, same)
        assert not torch.equal(moved, _weights(other.base))


def test_models_are_read_by_transformers_and_peft(pool: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(pool / "base")
    text = "def f(é):\n    return  2 "
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert len({tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}) == 3
    model = AutoModelForCausalLM.from_pretrained(pool / "base")
    tokens = torch.tensor([ids])
    before = model(tokens).logits
    tuned = PeftModel.from_pretrained(model, pool / "adapters/python")
    assert not torch.equal(tuned(tokens).logits, before)


def test_a_merge_of_it_is_planned_without_a_warning(pool: Path, tmp_path: Path) -> None:
    models = "\n".join(f"  - model: {pool / 'experts' / name}" for name in _NAMES)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"merge_method: linear\nparameters:\n  weight: 1.0\nmodels:\n{models}\n")
    assert plan(recipe).warnings == ()


@pytest.mark.parametrize("name", [*DOMAINS, OWN])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_piece_and_no_module_is_in_two_splits(name: str, seed: int) -> None:
    source = technical if name == OWN else DOMAINS[name]
    keys: dict[str, set[str]] = {split: set() for split in SPLITS}

    def heard(seed: int) -> Iterator[object]:
        for document in source(seed):
            keys[document.split].add(document.key)
            yield document

    parts = divide(heard(seed), Amounts(20_000, held=1_500))  # type: ignore[arg-type]
    for split, wanted in (("train", 20_000), ("validation", 1_500), ("test", 1_500)):
        assert sum(map(len, parts[split])) >= wanted  # type: ignore[index]
    for one, other in combinations(SPLITS, 2):
        assert not set(parts[one]) & set(parts[other])
        assert not keys[one] & keys[other]


def test_no_problem_is_in_two_splits_whatever_the_order_of_its_numbers() -> None:
    pairs: dict[str, set[tuple[str, int, int]]] = {split: set() for split in SPLITS}
    for document in islice(arithmetic(0), 400):
        for line in document.text.splitlines():
            left, right = line.split(" = ")
            assert eval(left) == int(right)
            one, sign, other = left.split()
            first = int(one if sign in "+*" else right)
            kind = "+" if sign in "+-" else "*"
            low, high = sorted((first, int(other)))
            pairs[document.split].add((kind, low, high))
    assert all(pairs.values())
    for one_, other_ in combinations(SPLITS, 2):
        assert not pairs[one_] & pairs[other_]


def test_published_splits_stay_apart(data: Path) -> None:
    found = found_in(data)
    parts = divide(found["requests"].source(data)(0), Amounts(10**6, held=10**6, each=99))
    lines = {split: {r for p in parts[split] for r in p.splitlines()} for split in SPLITS}
    assert "test request 7" in lines["test"] - lines["train"]
    assert {len(lines[split]) for split in SPLITS} == {120}
    source: Source = found["problems"].source(data)
    rows = list(source(0))
    assert all((d.split == "test") == ("of test" in d.text) for d in rows)
    assert {d.split for d in rows} == set(SPLITS)
    assert all("<<" not in d.text for d in rows)


def test_a_folder_without_data_or_with_other_data_is_refused(data: Path, tmp_path: Path) -> None:
    entry = find_entry("voices")
    with pytest.raises(InputError, match=r"holds no data .* gsm8k/train.jsonl"):
        entry.draw(Wanted(data=tmp_path))
    (tmp_path / "clinc150").mkdir()
    file = tmp_path / "clinc150" / "data_full.json"
    file.write_text('{"train": []}')
    found = found_in(tmp_path)
    assert [*found] == ["requests"]
    with pytest.raises(FormatError, match=r"data_full.json' does not hold"):
        list(found["requests"].source(tmp_path)(0))


def test_texts_do_not_depend_on_the_order_of_sets() -> None:
    code = (
        "from cermet.zoo.installed import DOMAINS, technical; from itertools import islice\n"
        "from cermet.core.fingerprint import sha256_hex\n"
        "print([sha256_hex(repr(list(islice(s(0), 300))).encode()) "
        "for s in (technical, *DOMAINS.values())])"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hashed, "PYTHONPATH": os.pathsep.join(sys.path)},
            check=True,
            capture_output=True,
        ).stdout
        for hashed in ("1", "2")
    }
    assert len(said) == 1


def test_a_tenth_of_all_keys_is_held_out_for_each_split() -> None:
    draws = [chance(0, str(i)) for i in range(2_000)]
    for split in ("validation", "test"):
        assert 150 < draws.count(split) < 250  # type: ignore[arg-type]
