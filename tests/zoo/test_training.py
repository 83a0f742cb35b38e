"""Training in a few steps: what is learnt, what stays frozen, what is kept and reused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cermet.checkpoints.front_matter import read_front_matter
from cermet.core.errors import ExtraError
from cermet.core.places import cache_folder
from cermet.inference.encoder import Encoder, mean_pool
from cermet.recipes.pool import read_pool
from cermet.zoo.base import base_folder
from cermet.zoo.cards import GENERATED
from cermet.zoo.demo import generated_subjects
from cermet.zoo.encoders import Encoders
from cermet.zoo.lora import Rank
from cermet.zoo.sentences import Lesson, tune
from cermet.zoo.steps import Built, build
from cermet.zoo.train import Course, fixed_threads

_TINY = Course(epochs=1, batch=8, rate=1e-4, pull=0.01)
_SUBJECTS = generated_subjects(0, ("bank", "home"), per_intent=2)


def _pool(folder: Path, **wanted: object) -> Built:
    pool = Encoders("tiny", _SUBJECTS, GENERATED, 0, _TINY, **wanted)  # type: ignore[arg-type]
    return build(pool.blueprint(), folder)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pool")
    _pool(folder, multi_task=True, adapters=(_TINY, Rank(4, 8)))
    return folder


def test_pool_holds_what_its_file_names(trained: Path) -> None:
    pool = read_pool(trained)
    assert list(pool.experts) == list(pool.adapters) == [t.name for t in pool.tasks]
    for folder in (pool.base, pool.multi_task, *pool.experts.values(), *pool.adapters.values()):
        assert folder is not None
        assert read_front_matter(Path(folder)).license == ("apache-2.0",)
    train = (trained / "tasks/home.train.jsonl").read_text("utf-8").splitlines()
    assert len(train) == len(_SUBJECTS[1].train)
    assert json.loads(train[0]) == {"text": _SUBJECTS[1].train[0].text, "label": 0}


@pytest.mark.parametrize("name", ["experts/bank", "multi_task"])
def test_expert_is_a_checkpoint_like_the_base(trained: Path, name: str) -> None:
    folder, base = trained / name, trained / "base"
    tuned, before = load_file(folder / "model.safetensors"), load_file(base / "model.safetensors")
    assert {n: (t.shape, t.dtype) for n, t in tuned.items()} == {
        n: (t.shape, t.dtype) for n, t in before.items()
    }
    for file in ("config.json", "tokenizer.json"):
        assert (folder / file).read_bytes() == (base / file).read_bytes()
    assert (folder / "model.safetensors").stat().st_mode & 0o044


def test_layers_learn_and_word_embeddings_stay(trained: Path) -> None:
    tuned = load_file(trained / "experts/bank/model.safetensors")
    before = load_file(base_folder() / "model.safetensors")
    words = "embeddings.word_embeddings.weight"
    assert torch.equal(tuned[words], before[words])
    assert not torch.equal(
        tuned["encoder.layer.0.output.dense.weight"], before["encoder.layer.0.output.dense.weight"]
    )


def test_heads_are_the_bases_embeddings_of_the_examples(trained: Path) -> None:
    head = load_file(trained / "tasks/bank.head.safetensors")["head"]
    with fixed_threads():
        assert torch.equal(head, Encoder(base_folder()).embed(_SUBJECTS[0].examples))
    assert torch.allclose(head.norm(dim=1), torch.ones(len(head)))


def test_training_brings_texts_to_their_directions(trained: Path) -> None:
    """A batch that is seen often is known: every weight is used, and labels are the right ones."""
    encoder = Encoder(trained / "base")
    head = load_file(trained / "tasks/bank.head.safetensors")["head"]
    rows = [replace(u, label=9 - u.label) for u in _SUBJECTS[0].train[::2]]  # labels turned round
    texts, labels = [u.text for u in rows], torch.tensor([u.label for u in rows])
    assert ((encoder.embed(texts) @ head.T).argmax(1) == labels).float().mean() < 0.5
    tune(encoder, [Lesson(head, rows)], Course(epochs=12, batch=10, rate=5e-4), 0)
    assert ((encoder.embed(texts) @ head.T).argmax(1) == labels).all()


def test_multi_task_learns_every_lesson_towards_its_own_head(trained: Path) -> None:
    steps: list[tuple[int, int]] = []
    encoder = Encoder(trained / "base")
    heads = {s.name: load_file(trained / f"tasks/{s.name}.head.safetensors")["head"]
             for s in _SUBJECTS}  # fmt: skip
    lessons = [Lesson(heads[s.name], s.train) for s in _SUBJECTS]
    tune(encoder, lessons, replace(_TINY, epochs=3), 0, lambda *step: steps.append(step))
    batches = 3 * sum(-(-len(s.train) // 8) for s in _SUBJECTS)
    assert steps[-1] == (batches, batches)
    base = Encoder(trained / "base")
    for subject in _SUBJECTS:
        texts = [u.text for u in subject.train]
        own = heads[subject.name][[u.label for u in subject.train]]
        near, before = ((m.embed(texts) * own).sum(1).mean() for m in (encoder, base))
        assert near > before


def test_adapter_is_what_peft_loads_and_changes_the_model(trained: Path) -> None:
    from peft import PeftModel

    folder = trained / "adapters/bank"
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 8)
    encoder = Encoder(trained / "base")
    text = [_SUBJECTS[0].train[0].text]
    before = encoder.embed(text)
    encoder.model = PeftModel.from_pretrained(encoder.model, folder)
    assert not torch.allclose(encoder.embed(text), before, atol=1e-4)
    assert not any("pooler" in n for n in load_file(folder / "adapter_model.safetensors"))


def test_same_seed_same_bytes_and_found_again(trained: Path, tmp_path: Path) -> None:
    names = ("multi_task", "adapters/bank", "adapters/home")
    _pool(tmp_path, multi_task=True, adapters=(_TINY, Rank(4, 8)))
    files = [f for f in sorted(trained.rglob("*")) if f.is_file() and f.name != "zoo.json"]
    assert {f"{n}/README.md" for n in names} <= {str(f.relative_to(trained)) for f in files}
    for file in files:
        assert (tmp_path / file.relative_to(trained)).read_bytes() == file.read_bytes(), file
    assert _pool(tmp_path, multi_task=True, adapters=(_TINY, Rank(4, 8))).made == ()


def test_only_what_depends_on_the_settings_is_trained_again(tmp_path: Path) -> None:
    subjects = _SUBJECTS[:1]
    first = Encoders("tiny", subjects, GENERATED, 0, _TINY)
    build(first.blueprint(), tmp_path)
    other = replace(first, course=replace(_TINY, rate=2e-4))
    assert build(other.blueprint(), tmp_path).made == ("experts/bank",)
    fewer = replace(first, subjects=[replace(subjects[0], train=subjects[0].train[:-1])])
    assert build(fewer.blueprint(), tmp_path).made == ("tasks", "experts/bank")


def test_random_state_and_threads_are_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(7)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    pool = Encoders("tiny", _SUBJECTS[:1], GENERATED, 0, _TINY, adapters=(_TINY, Rank(4, 8)))
    build(pool.blueprint(), tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_missing_package_names_the_extra() -> None:
    with pytest.raises(ExtraError, match=r"pip install 'cermet\[demo\]'"):
        base_folder("a_package_that_nobody_has_written")


def test_cache_folder_follows_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CERMET_CACHE", str(tmp_path))
    assert cache_folder("zoo") == tmp_path / "zoo"
    monkeypatch.delenv("CERMET_CACHE")
    assert cache_folder("zoo").name == "zoo"
    assert cache_folder("zoo").parent.name == "cermet"


def test_mean_pool_leaves_padding_out() -> None:
    hidden = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [99.0, 99.0]]])
    assert mean_pool(hidden, torch.tensor([[1, 1, 0]])).tolist() == [[2.0, 4.0]]


def test_embedding_does_not_depend_on_the_company(trained: Path) -> None:
    encoder = Encoder(trained / "experts/bank")
    texts = ["freeze my card", "a much longer request about a card that was lost on the train"]
    together, alone = encoder.embed(texts), encoder.embed(texts[:1])
    assert torch.allclose(together[:1], alone, atol=1e-5)
    assert encoder.embed([]).shape == (0, 384)
