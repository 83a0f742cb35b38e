"""Heads that are tied to the embedding, stored or not, beside heads of their own.

A head that every model ties is written once, as the embedding; as soon as one model has a head of
its own, the output has one too, and its config says so. Nothing is lost, nothing is written twice.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from cermet import api
from cermet.core.errors import MismatchError
from tests.recipes.pools import config_of, llama, llama_config, merged, save

Kind = Literal["left out", "stored", "own"]
_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
_SHAPES = ("models", "slices")


def _weights(seed: int, kind: Kind) -> dict[str, torch.Tensor]:
    found = llama(seed, head=kind == "own")
    if kind == "stored":
        found[_HEAD] = found[_EMBEDDING].clone()
    return found


def _save(folder: Path, seed: int, kind: Kind) -> str:
    config = llama_config(tie_word_embeddings=kind != "own")
    return save(folder, _weights(seed, kind), config)


def _recipe(base: str, expert: str, shape: str) -> dict[str, Any]:
    """Half of the expert's delta, on the base."""
    own = {"model": expert, "parameters": {"weight": 0.5}}
    recipe: dict[str, Any] = {"merge_method": "task_arithmetic", "base_model": base}
    if shape == "models":
        return {**recipe, "models": [own]}
    sources = [{"model": base, "layer_range": [0, 2]}, {**own, "layer_range": [0, 2]}]
    return {**recipe, "slices": [{"sources": sources}]}


@pytest.mark.parametrize("shape", _SHAPES)
@pytest.mark.parametrize("base", ["left out", "stored"])
@pytest.mark.parametrize("expert", ["left out", "stored"])
def test_a_head_that_all_tie_is_written_once(
    base: Kind, expert: Kind, shape: str, tmp_path: Path
) -> None:
    paths = _save(tmp_path / "a", 1, base), _save(tmp_path / "b", 2, expert)
    found = merged(_recipe(*paths, shape), tmp_path / "out")
    assert set(found) == set(_weights(1, "left out"))
    expected = (llama(1)[_EMBEDDING] + llama(2)[_EMBEDDING]) / 2
    torch.testing.assert_close(found[_EMBEDDING], expected)
    assert config_of(tmp_path / "out")["tie_word_embeddings"] is True


@pytest.mark.parametrize("shape", _SHAPES)
@pytest.mark.parametrize(
    ("base", "expert"),
    [
        ("left out", "own"),
        ("stored", "own"),
        ("own", "left out"),
        ("own", "stored"),
        ("own", "own"),
    ],
)
def test_one_head_of_its_own_gives_the_output_one(
    base: Kind, expert: Kind, shape: str, tmp_path: Path
) -> None:
    paths = _save(tmp_path / "a", 1, base), _save(tmp_path / "b", 2, expert)
    found = merged(_recipe(*paths, shape), tmp_path / "out")
    heads = [
        _weights(i, k)[_HEAD if k == "own" else _EMBEDDING] for i, k in ((1, base), (2, expert))
    ]
    torch.testing.assert_close(found[_HEAD], sum(heads, torch.zeros(())) / 2)
    embeddings = [llama(i)[_EMBEDDING] for i in (1, 2)]
    torch.testing.assert_close(found[_EMBEDDING], sum(embeddings, torch.zeros(())) / 2)
    assert config_of(tmp_path / "out")["tie_word_embeddings"] is False


def test_a_tied_head_that_holds_other_numbers_is_refused(tmp_path: Path) -> None:
    a, b = _save(tmp_path / "a", 1, "left out"), _save(tmp_path / "b", 2, "stored")
    spoilt = _weights(2, "stored")
    spoilt[_HEAD][-1, -1] += 1
    save(tmp_path / "b", spoilt)
    with pytest.raises(
        MismatchError, match=r"'lm_head\.weight' is tied to 'model\.embed"
    ) as caught:
        api.merge(_recipe(a, b, "models"), tmp_path / "out")
    assert b in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_text_config_is_untied_with_the_whole(tmp_path: Path) -> None:
    tied = llama_config(tie_word_embeddings=True)
    config = {"model_type": "wrapped", "tie_word_embeddings": True, "text_config": tied}
    a = save(tmp_path / "a", llama(1, head=False), config)
    b = _save(tmp_path / "b", 2, "own")
    merged(_recipe(a, b, "models"), tmp_path / "out")
    found = config_of(tmp_path / "out")
    assert (found["tie_word_embeddings"], found["text_config"]["tie_word_embeddings"]) == (
        False,
        False,
    )


def test_copies_of_a_shared_embedding_do_not_untie_the_head(tmp_path: Path) -> None:
    """T5 stores `shared`, and old files its copies in both stacks; the head stays tied."""
    own = torch.Generator().manual_seed(0)
    shared = torch.randn(6, 4, generator=own)
    weights = {"shared.weight": shared}
    for stack in ("encoder", "decoder"):
        weights[f"{stack}.block.0.layer.0.SelfAttention.q.weight"] = torch.randn(
            4, 4, generator=own
        )
    copies = {f"{s}.embed_tokens.weight": shared.clone() for s in ("encoder", "decoder")}
    config = {
        "model_type": "t5",
        "is_encoder_decoder": True,
        "num_layers": 1,
        "tie_word_embeddings": True,
        "architectures": ["T5ForConditionalGeneration"],
    }
    a = save(tmp_path / "a", weights, config)
    b = save(tmp_path / "b", {**weights, **copies}, config)
    for base, expert in ((a, b), (b, a)):
        out = tmp_path / Path(base).name / "out"
        found = merged(_recipe(base, expert, "models"), out)
        assert set(found) == set(weights if base == a else {**weights, **copies})
        assert config_of(out)["tie_word_embeddings"] is True


def test_a_tensor_that_only_an_expert_has_is_refused(tmp_path: Path) -> None:
    a, b = _save(tmp_path / "a", 1, "own"), _save(tmp_path / "b", 2, "own")
    save(tmp_path / "b", {**_weights(2, "own"), "score.weight": torch.ones(3, 16)})
    for shape in _SHAPES:
        with pytest.raises(MismatchError, match=r"'score\.weight' \[3, 16\] .* no counterpart"):
            api.plan(_recipe(a, b, shape))
        with pytest.raises(MismatchError, match=r"has no tensor 'score\.weight'"):
            api.plan(_recipe(b, a, shape))
