"""A model that sees has tokens for images: merged with text-only twins that lack them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from cermet import api
from cermet.core.errors import RecipeError
from tests.checkpoints.tokenizers import save_tokenizer
from tests.recipes.pools import config_of, merged, planned
from tests.recipes.senses import logits, save_model, twin_of
from tests.recipes.vocabularies import CHAT, ids_of, weighted

IMAGE = ("<image>", "<pad>")
EMBEDS = {
    "llava": "language_model.model.embed_tokens.weight",
    "gemma3": "language_model.model.embed_tokens.weight",
    "qwen2_vl": "model.embed_tokens.weight",
}


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of each family a model with two image tokens; its twins have none, or two for a chat."""
    root = tmp_path_factory.mktemp("tokens")
    for family in EMBEDS:
        own = root / family
        size = save_tokenizer(own / "vlm", added=IMAGE)
        seen = {"image_token_id": size - 2}
        wide = save_model(family, own / "vlm", 1, vocab_size=size)
        narrow = save_model(family, own / "narrow", 1, vocab_size=size - 2)
        for name, form, seed in (("twin", narrow, 2), ("tuned", narrow, 3), ("chat", wide, 4)):
            twin_of(family, form, own / name, seed)
            save_tokenizer(own / name, added=CHAT if name == "chat" else ())
        (own / "vlm" / "config.json").write_text(json.dumps({**config_of(wide), **seen}))
    return root


def _output(recipe: dict[str, Any], out: Path) -> torch.Tensor:
    """The embedding of a merge, which transformers runs on image tokens as well."""
    (name,) = {n for n in merged(recipe, out) if n in EMBEDS.values()}
    found = api.open(out)[name]
    seen = logits(out, input_ids=torch.arange(3, len(found))[None])
    assert seen.shape[-1] == len(found)
    return found


@pytest.mark.parametrize("family", EMBEDS)
@pytest.mark.parametrize("source", ["base", "union"])
def test_a_twin_has_the_row_of_the_model_that_sees(
    family: str, source: str, pool: Path, tmp_path: Path
) -> None:
    vlm, twin = str(pool / family / "vlm"), str(pool / family / "twin")
    for models in ([vlm, twin], [twin, vlm]):  # whichever is named first
        recipe = {**weighted(models), "tokenizer_source": source}
        out = tmp_path / Path(models[0]).name
        found = _output(recipe, out)
        own = api.open(vlm)[EMBEDS[family]]
        assert len(found) == len(own)
        for token in IMAGE:
            torch.testing.assert_close(found[ids_of(out)[token]], own[ids_of(vlm)[token]])
        assert config_of(out)["image_token_id"] == ids_of(out)["<image>"]
    assert not api.verify(out).problems


def test_base_means_the_anchor_also_where_the_base_takes_text_alone(
    pool: Path, tmp_path: Path
) -> None:
    vlm, twin, tuned = (str(pool / "llava" / n) for n in ("vlm", "twin", "tuned"))
    recipe = {**weighted([vlm, tuned]), "merge_method": "task_arithmetic", "base_model": twin}
    assert len(_output({**recipe, "tokenizer_source": "base"}, tmp_path / "out")) == 35
    with pytest.raises(RecipeError, match="does not have the token that 'image_token_i"):
        planned({**recipe, "tokenizer_source": twin})


def test_image_tokens_keep_their_ids_beside_those_of_a_chat(pool: Path, tmp_path: Path) -> None:
    vlm, chat = str(pool / "llava" / "vlm"), str(pool / "llava" / "chat")
    recipe = {**weighted([chat, vlm]), "tokenizer_source": "union"}
    found = _output(recipe, tmp_path / "out")
    ids = ids_of(tmp_path / "out")
    assert [ids[t] for t in (*IMAGE, *CHAT)] == [33, 34, 35, 36]
    torch.testing.assert_close(
        found[ids[CHAT[0]]], api.open(chat)["model.embed_tokens.weight"][ids_of(chat)[CHAT[0]]]
    )
    assert config_of(tmp_path / "out")["image_token_id"] == ids["<image>"]
