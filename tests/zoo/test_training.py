"""Training in a few steps: what is learnt, what stays frozen, what is kept and reused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cermet.core.errors import ExtraError, OutputError
from cermet.inference.encoder import Encoder, mean_pool
from cermet.zoo.base import base_folder
from cermet.zoo.cache import MARK, cache_folder
from cermet.zoo.pool import Pool, make_pool
from cermet.zoo.train import Settings, fixed_threads, head_of
from cermet.zoo.utterances import Utterance, utterances

_TINY = Settings(epochs=1, batch=8)


def _data(name: str) -> Sequence[Utterance]:
    return utterances(name, "train", 0, per_intent=2)


def _pool(folder: Path, lines: list[str], seed: int = 0) -> Pool:
    return make_pool(folder, seed, lines.append, settings=_TINY, names=("bank",), data=_data)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Pool]:
    folder = tmp_path_factory.mktemp("pool")
    return folder, _pool(folder, [])


def test_expert_is_a_checkpoint_like_the_base(trained: tuple[Path, Pool]) -> None:
    folder, base = trained[0] / "bank", base_folder()
    tuned, before = load_file(folder / "model.safetensors"), load_file(base / "model.safetensors")
    assert {n: (t.shape, t.dtype) for n, t in tuned.items()} == {
        n: (t.shape, t.dtype) for n, t in before.items()
    }
    for name in ("config.json", "tokenizer.json"):
        assert (folder / name).read_bytes() == (base / name).read_bytes()
    assert (folder / "model.safetensors").stat().st_mode & 0o044


def test_layers_learn_and_word_embeddings_stay(trained: tuple[Path, Pool]) -> None:
    tuned = load_file(trained[0] / "bank" / "model.safetensors")
    before = load_file(base_folder() / "model.safetensors")
    words = "embeddings.word_embeddings.weight"
    assert torch.equal(tuned[words], before[words])
    assert not torch.equal(
        tuned["encoder.layer.0.output.dense.weight"], before["encoder.layer.0.output.dense.weight"]
    )


def test_heads_are_made_with_the_base_and_never_learn(trained: tuple[Path, Pool]) -> None:
    with fixed_threads():
        head = head_of(Encoder(base_folder()), "bank")
    assert torch.equal(trained[1].heads["bank"], head)
    assert not trained[1].heads["bank"].requires_grad
    assert torch.allclose(head.norm(dim=1), torch.ones(len(head)))


def test_same_seed_same_bytes_and_found_again(trained: tuple[Path, Pool], tmp_path: Path) -> None:
    first, again = trained[0] / "bank" / "model.safetensors", tmp_path / "bank"
    lines: list[str] = []
    assert _pool(tmp_path, lines).trained == ("bank",)
    assert (again / "model.safetensors").read_bytes() == first.read_bytes()
    before = (again / "model.safetensors").stat().st_mtime_ns
    assert _pool(tmp_path, lines).trained == ()
    assert (again / "model.safetensors").stat().st_mtime_ns == before
    assert "trained on 20 utterances" in lines[0]
    assert "found in" in lines[1]
    assert [p.name for p in tmp_path.iterdir()] == ["bank"]  # nothing half-made is left


def test_a_stale_expert_is_trained_again(tmp_path: Path) -> None:
    _pool(tmp_path, [])
    mark = tmp_path / "bank" / MARK
    found = json.loads(mark.read_text())
    mark.write_text(json.dumps({**found, "fingerprint": "of an older generator"}))
    assert _pool(tmp_path, []).trained == ("bank",)
    assert json.loads(mark.read_text())["fingerprint"] == found["fingerprint"]


def test_a_folder_of_someone_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "bank").mkdir()
    (tmp_path / "bank" / "thesis.txt").write_text("precious")
    with pytest.raises(OutputError, match="in the way"):
        _pool(tmp_path, [])
    assert (tmp_path / "bank" / "thesis.txt").read_text() == "precious"


def test_random_state_and_threads_are_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(7)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    _pool(tmp_path, [])
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


def test_embedding_does_not_depend_on_the_company(trained: tuple[Path, Pool]) -> None:
    encoder = Encoder(trained[0] / "bank")
    texts = ["freeze my card", "a much longer request about a card that was lost on the train"]
    together, alone = encoder.embed(texts), encoder.embed(texts[:1])
    assert torch.allclose(together[:1], alone, atol=1e-5)
    assert encoder.embed([]).shape == (0, 384)
