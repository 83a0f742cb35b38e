"""Vocabularies that differ in ways for which there is no rule: refusals and warnings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from cermet import api
from cermet.core.errors import FormatError, MismatchError, RecipeError
from tests.recipes.pools import llama_config, planned, save
from tests.recipes.vocabularies import (
    CHAT,
    EMBED,
    HEAD,
    save_model,
    unequal,
    unequal_pool,
    weighted,
)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return unequal_pool(tmp_path_factory.mktemp("pool"))


def test_unequal_vocabularies_without_a_rule(pool: dict[str, str]) -> None:
    with pytest.raises(MismatchError) as caught:
        planned(unequal(pool))
    text = str(caught.value)
    assert f"'<|im_start|>' is 33 in '{pool['chat']}'; '<|im_end|>' is 34" in text
    for way in ("tokenizer_source: base", "tokenizer_source: union", "one of the models"):
        assert way in text


def test_rows_of_different_tokens_are_not_merged_unseen(tmp_path: Path) -> None:
    one = save_model(tmp_path / "a", 0, added=["<x>", "<y>"])
    two = save_model(tmp_path / "b", 1, added=["<y>", "<x>"])
    (warning,) = planned(weighted([one, two])).warnings
    assert f"'<x>' is 33 in '{one}' and 34 in '{two}'" in warning
    unused = save_model(tmp_path / "c", 2, added=["<x>", "<y>", "<pad>"], rows=35)
    assert planned(weighted([one, unused])).warnings == ()  # <pad> has no row


def test_a_model_without_a_tokenizer(pool: dict[str, str], tmp_path: Path) -> None:
    from tests.checkpoints.tokenizers import save_tokenizer
    from tests.recipes.pools import llama, llama_config, save

    bare = save(tmp_path / "bare", llama(5, 1), llama_config(1))
    with pytest.raises(RecipeError, match=r"bare' holds no tokenizer"):
        planned(weighted([pool["base"], bare], tokenizer_source="union"))
    more = [f"w{i}" for i in range(7)]  # as many tokens as rows
    assert save_tokenizer(tmp_path / "full", more=more) == 40
    full = save(tmp_path / "full", llama(6, 1), llama_config(1))
    found = planned(weighted([full, bare], tokenizer_source="union"))
    assert "bare' holds no tokenizer; its tokens are taken to be those of" in found.warnings[0]


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ({}, "no model has this token; give it a source"),
        ({"source": "$chat"}, "has no row for a token '<new>'"),
        ({"source": "nowhere"}, "'nowhere' is not among the models of the recipe"),
        (
            {"source": {"kind": "model_token", "model": "$chat", "token": "<other>"}},
            "has no row for a token '<other>'",
        ),
        (
            {"source": {"kind": "model_token", "model": "$chat", "token_id": 35}},
            r"has no row for a token of the id 35 \('model.embed_tokens.weight' has 35\)",
        ),
    ],
)
def test_a_rule_that_names_no_row(rule: dict[str, Any], reason: str, pool: dict[str, str]) -> None:
    said = json.loads(json.dumps(rule).replace("$chat", pool["chat"]))
    with pytest.raises(RecipeError, match=reason):
        planned(unequal(pool, tokenizer={"source": "union", "tokens": {"<new>": said}}))


def test_a_head_of_another_length(pool: dict[str, str], tmp_path: Path) -> None:
    odd = save_model(tmp_path / "odd", 3)
    tensors = dict(api.open(odd))
    tensors[HEAD] = torch.cat([tensors[HEAD]] * 2)
    save(tmp_path / "odd", {n: t.clone() for n, t in tensors.items()}, llama_config(1))
    with pytest.raises(MismatchError, match=r"has 66 rows and its embedding 33"):
        planned(weighted([odd, pool["chat"]], tokenizer_source="union"))


def test_another_width_is_no_matter_of_the_vocabulary(pool: dict[str, str], tmp_path: Path) -> None:
    tensors = {n: t.clone() for n, t in api.open(pool["base"]).items()}
    for name in (EMBED, HEAD):
        tensors[name] = torch.cat([tensors[name]] * 2, 1)
    wide = save(tmp_path / "wide", tensors, llama_config(1, vocab_size=33))
    for said in ({}, {"tokenizer_source": "base"}):
        with pytest.raises(MismatchError, match=r"shapes must be equal\.$"):
            planned(weighted([pool["base"], wide], **said))


def test_a_damaged_tokenizer(pool: dict[str, str], tmp_path: Path) -> None:
    broken = save_model(tmp_path / "a", 3, added=CHAT)
    (tmp_path / "a" / "tokenizer.json").write_text('{"model": 3}')
    recipe = weighted([pool["base"], broken])
    with pytest.raises(FormatError, match=r"tokenizer\.json' is not a tokenizer"):
        planned({**recipe, "tokenizer_source": "union"})
    with pytest.raises(MismatchError, match=r"Their vocabularies differ\. Say which"):
        planned(recipe)


def test_an_assembly_does_not_change_vocabularies(pool: dict[str, str]) -> None:
    recipe = {**weighted([pool["chat"]]), "merge_method": "emr", "base_model": pool["base"]}
    recipe["models"] = [{"model": pool["chat"]}]
    with pytest.raises(RecipeError, match="'emr' makes an assembly"):
        planned({**recipe, "tokenizer_source": "union"})
