"""Models whose vocabularies differ, brought into one: which tokens, which rows, which ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from cermet import api
from tests.recipes.pools import config_of, merged, planned
from tests.recipes.vocabularies import (
    CHAT,
    EMBED,
    HEAD,
    UNUSED,
    ids_of,
    save_model,
    unequal,
    unequal_pool,
    weighted,
)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return unequal_pool(tmp_path_factory.mktemp("pool"))


def _rows(model: str, name: str = EMBED) -> torch.Tensor:
    return api.open(model)[name]


# -- what mergekit's own tests pin: 64 -> 33 and 66 -> 35 here ------------------------


@pytest.mark.parametrize(
    ("said", "count"),
    [
        ({"tokenizer_source": "base"}, 33),
        ({"tokenizer_source": "union"}, 35),
        ({"tokenizer_source": "chat"}, 35),
        ({"tokenizer": {"source": "base"}}, 33),
        ({"tokenizer": {}}, 35),
        ({"tokenizer": {"source": "chat"}}, 35),
    ],
)
def test_how_many_tokens_there_are(
    said: dict[str, Any], count: int, pool: dict[str, str], tmp_path: Path
) -> None:
    if "chat" in said.values():
        said = {"tokenizer_source": pool["chat"]}
    elif said.get("tokenizer", {}).get("source") == "chat":
        said = {"tokenizer": {"source": pool["chat"]}}
    found = merged(unequal(pool, **said), tmp_path / "out")
    assert found[EMBED].shape == found[HEAD].shape == (count, 16)
    assert config_of(tmp_path / "out")["vocab_size"] == count
    ids = ids_of(tmp_path / "out")
    assert len(ids) == count
    assert set(CHAT) <= set(ids) if count == 35 else set(CHAT).isdisjoint(ids)
    assert set(UNUSED).isdisjoint(ids)


@pytest.mark.parametrize(
    ("setting", "count"),
    [
        ({"source": "base"}, 64),
        ({"source": "union"}, 66),
        ({"source": "union", "pad_to_multiple_of": 16}, 80),
    ],
)
def test_the_counts_that_mergekit_pins(setting: dict[str, Any], count: int, tmp_path: Path) -> None:
    words = [f"word{i}" for i in range(31)]
    base = save_model(tmp_path / "base", 0, more=words)
    chat = save_model(tmp_path / "chat", 1, more=words, added=CHAT)
    recipe = weighted([base, chat], base_model=base, tokenizer=setting)
    found = merged(recipe, tmp_path / "out")
    assert found[EMBED].shape == found[HEAD].shape == (count, 16)
    assert config_of(tmp_path / "out")["vocab_size"] == count
    assert len(ids_of(tmp_path / "out")) == min(count, 66)


@pytest.mark.parametrize("name", [EMBED, HEAD])
def test_a_token_of_one_model_has_that_models_row(
    name: str, pool: dict[str, str], tmp_path: Path
) -> None:
    found = merged(unequal(pool, tokenizer_source="union"), tmp_path / "out")[name]
    ids, chat = ids_of(tmp_path / "out"), ids_of(pool["chat"])
    for token in CHAT:
        donor = _rows(pool["chat"], name)[chat[token]]
        torch.testing.assert_close(found[ids[token]], donor, rtol=0, atol=1e-8)
    mean = sum(_rows(m, name)[:33].double() for m in pool.values()) / 3
    torch.testing.assert_close(found[:33], mean.float(), rtol=1e-6, atol=1e-8)


def _one(pool: dict[str, str], token: str, rule: dict[str, Any], out: Path) -> torch.Tensor:
    """The row of a token under a rule."""
    setting = {"source": "union", "tokens": {token: rule}}
    found = merged(unequal(pool, tokenizer=setting), out)
    return found[EMBED][ids_of(out)[token]]


def test_a_forced_token_has_exactly_the_row_that_is_named(
    pool: dict[str, str], tmp_path: Path
) -> None:
    found = _one(pool, "the", {"source": pool["chat"], "force": True}, tmp_path / "out")
    donor = _rows(pool["chat"])[ids_of(pool["chat"])["the"]]
    torch.testing.assert_close(found, donor, rtol=0, atol=1e-8)


@pytest.mark.parametrize("by", ["token", "token_id"])
def test_a_token_may_have_the_row_of_another(by: str, pool: dict[str, str], tmp_path: Path) -> None:
    index = ids_of(pool["padded"])["at"]
    named = {"token": "at"} if by == "token" else {"token_id": index}
    source = {"kind": "model_token", "model": pool["padded"], **named}
    found = _one(pool, CHAT[0], {"source": source, "force": True}, tmp_path / "out")
    torch.testing.assert_close(found, _rows(pool["padded"])[index], rtol=0, atol=1e-8)


def test_without_force_only_the_models_that_lack_a_token_take_the_row(
    pool: dict[str, str], tmp_path: Path
) -> None:
    found = _one(pool, CHAT[0], {"source": {"kind": "zero"}}, tmp_path / "out")
    own = _rows(pool["chat"])[33] / 3  # two of three models are zero there
    torch.testing.assert_close(found, own, rtol=1e-6, atol=1e-8)


def test_a_token_of_zeros(pool: dict[str, str], tmp_path: Path) -> None:
    rule = {"source": {"kind": "zero"}, "force": True}
    assert not _one(pool, "the", rule, tmp_path / "out").any()


def test_rows_are_padded_to_a_multiple_with_the_mean(pool: dict[str, str], tmp_path: Path) -> None:
    setting = {"source": "union", "pad_to_multiple_of": 16}
    found = merged(unequal(pool, tokenizer=setting), tmp_path / "out")
    assert found[EMBED].shape == found[HEAD].shape == (48, 16)
    assert config_of(tmp_path / "out")["vocab_size"] == 48
    assert len(ids_of(tmp_path / "out")) == 35
    mean = found[EMBED][:35].double().mean(0).float()
    torch.testing.assert_close(found[EMBED][35:], mean.expand(13, 16), rtol=1e-5, atol=1e-8)


# -- whose row a token gets that a model lacks ----------------------------------------


def test_what_models_share_and_another_lacks(tmp_path: Path) -> None:
    one, two = (save_model(tmp_path / n, i, added=["<x>"]) for i, n in enumerate("ab"))
    bare = save_model(tmp_path / "c", 2)
    models, at = [bare, one, two], ids_of(one)["<x>"]
    said = {"tokenizer_source": "union"}
    has = [_rows(one)[at].double(), _rows(two)[at].double()]
    mean = merged(weighted(models, **said), tmp_path / "mean")[EMBED][at]
    # without a base, the mean of those that have it
    torch.testing.assert_close(mean, ((has[0] + has[1]) / 2).float(), rtol=1e-6, atol=1e-8)
    # the base's, where it has one
    based = merged(weighted(models, base_model=two, **said), tmp_path / "based")[EMBED]
    row = based[ids_of(tmp_path / "based")["<x>"]]
    torch.testing.assert_close(row, ((has[0] + 2 * has[1]) / 3).float(), rtol=1e-6, atol=1e-8)


def test_the_mean_of_half_precision_rows_is_rounded_once(tmp_path: Path) -> None:
    half = torch.bfloat16
    one, two = (save_model(tmp_path / n, i, added=["<x>"], dtype=half) for i, n in enumerate("ab"))
    bare = save_model(tmp_path / "c", 2, dtype=half)
    models = [{"model": m, "parameters": {"weight": w}} for m, w in ((bare, 1), (one, 0), (two, 0))]
    recipe = {"merge_method": "linear", "models": models, "tokenizer_source": "union"}
    found = merged(recipe, tmp_path / "out")[EMBED]
    assert found.dtype == half
    mean = (_rows(one)[33].float() + _rows(two)[33].float()) / 2
    assert torch.equal(found[33], mean.to(half))


def test_tokens_in_another_order(tmp_path: Path) -> None:
    one = save_model(tmp_path / "a", 0, added=["<x>", "<y>"])
    two = save_model(tmp_path / "b", 1, added=["<y>", "<x>"])
    found = merged(weighted([one, two], tokenizer_source="base"), tmp_path / "out")
    left, right, ids = ids_of(one), ids_of(two), ids_of(tmp_path / "out")
    assert ids == left
    assert left["<x>"] == right["<y>"]
    for token in ids:
        mean = (_rows(one)[left[token]] + _rows(two)[right[token]]) / 2
        torch.testing.assert_close(found[EMBED][ids[token]], mean, rtol=1e-6, atol=1e-8)


def test_models_that_agree_are_merged_as_without_a_rule(pool: dict[str, str]) -> None:
    models = [pool["base"], pool["base"]]
    plain, ruled = (
        planned(weighted(models, **more)) for more in ({}, {"tokenizer_source": "base"})
    )
    assert [type(c) for c in plain.checkpoints] == [type(c) for c in ruled.checkpoints]
    assert plain.tasks == ruled.tasks
    assert ruled.vocabulary is None


def test_a_token_may_be_new(pool: dict[str, str], tmp_path: Path) -> None:
    source = {"kind": "model_token", "model": pool["chat"], "token": "<|im_end|>"}
    found = _one(pool, "<new>", {"source": source}, tmp_path / "out")
    torch.testing.assert_close(found, _rows(pool["chat"])[34], rtol=0, atol=1e-8)
    assert ids_of(tmp_path / "out")["<new>"] == 35


# -- rows beyond the tokens, ties -----------------------------------------------------


def test_padding_stays_as_the_base_has_it(tmp_path: Path) -> None:
    base = save_model(tmp_path / "a", 0, rows=40)
    chat = save_model(tmp_path / "b", 1, added=CHAT, rows=36)
    recipe = weighted([base, chat], base_model=base)
    union = merged({**recipe, "tokenizer_source": "union"}, tmp_path / "union")[EMBED]
    assert union.shape[0] == config_of(tmp_path / "union")["vocab_size"] == 40
    at = [ids_of(tmp_path / "union")[t] for t in CHAT]
    assert at == [33, 34]
    torch.testing.assert_close(union[33:35], _rows(chat)[33:35])
    # row 35 both have, the others the base alone
    torch.testing.assert_close(union[35], (_rows(base)[35] + _rows(chat)[35]) / 2)
    torch.testing.assert_close(union[36:], _rows(base)[36:])
    cut = merged({**recipe, "tokenizer_source": "base"}, tmp_path / "base")[EMBED]
    torch.testing.assert_close(cut[33:35], _rows(base)[33:35])  # a token is not padding
    tight = {"tokenizer": {"source": "union", "pad_to_multiple_of": 1}}
    assert merged({**recipe, **tight}, tmp_path / "tight")[EMBED].shape[0] == 35


def test_tied_and_untied_heads(tmp_path: Path) -> None:
    tied = save_model(tmp_path / "a", 0, head=False)
    chat = save_model(tmp_path / "b", 1, head=False, added=CHAT)
    found = merged(weighted([tied, chat], tokenizer_source="union"), tmp_path / "out")
    assert HEAD not in found
    assert found[EMBED].shape[0] == 35
    own = save_model(tmp_path / "c", 2, added=CHAT)
    mixed = merged(weighted([tied, own], tokenizer_source="union"), tmp_path / "mixed")
    torch.testing.assert_close(mixed[HEAD][34], _rows(own, HEAD)[34])
    torch.testing.assert_close(mixed[EMBED][34], _rows(own)[34])
    both = (_rows(tied) + _rows(own, HEAD)[:33]) / 2
    torch.testing.assert_close(mixed[HEAD][:33], both)


def test_any_cut_and_any_executor_give_the_same_bytes(pool: dict[str, str], tmp_path: Path) -> None:
    setting = {"source": "union", "pad_to_multiple_of": 16,
               "tokens": {"the": {"source": pool["chat"], "force": True}}}  # fmt: skip
    recipe = unequal(pool, tokenizer=setting, merge_method="linear")
    whole = merged(recipe, tmp_path / "whole")
    cut = merged(recipe, tmp_path / "cut", block=7)
    api.merge(recipe, tmp_path / "forked", threads=2, executor="processes")
    forked = api.open(tmp_path / "forked")
    for name, tensor in whole.items():
        assert torch.equal(tensor, cut[name])
        assert torch.equal(tensor, forked[name])
    assert not api.verify(tmp_path / "cut").problems


def test_verify_tells_that_a_tokenizer_has_changed(pool: dict[str, str], tmp_path: Path) -> None:
    base = save_model(tmp_path / "a", 0)
    recipe = weighted([base, pool["chat"]], tokenizer_source="union")
    merged(recipe, tmp_path / "out")
    save_model(tmp_path / "a", 0, more=["sat"], rows=33)
    problems = api.verify(tmp_path / "out").problems
    assert any("tokenizer.json" in p and "has changed since the merge" in p for p in problems)


def test_a_journal_is_of_one_vocabulary(pool: dict[str, str]) -> None:
    from cermet.engine.options import DEFAULT_SHARD
    from cermet.engine.run import fingerprint, plan_layout

    found = set()
    for source in (pool["chat"], pool["base"], {"kind": "zero"}):
        rule = {"the": {"source": source, "force": True}}
        plan = planned(unequal(pool, tokenizer={"source": "union", "tokens": rule}))
        found.add(fingerprint(plan, [plan_layout(plan, DEFAULT_SHARD)], "cpu"))
    assert len(found) == 3


# -- ids in the configs ---------------------------------------------------------------


def test_special_tokens_are_those_of_the_tokenizer(tmp_path: Path) -> None:
    base = save_model(tmp_path / "a", 0, pad_token_id=0, mask_token_id=4)
    chat = save_model(tmp_path / "b", 1, added=CHAT, eos_token_id=34, bos_token_id=None)
    for folder, ids in ((base, {"eos_token_id": [2, 1], "pad_token_id": 2}),
                        (chat, {"eos_token_id": [34, 2]})):  # fmt: skip
        (Path(folder) / "generation_config.json").write_text(json.dumps({**ids, "top_p": 0.5}))
    recipe = weighted([base, chat], base_model=base)
    merged({**recipe, "tokenizer_source": chat}, tmp_path / "chat")
    found = config_of(tmp_path / "chat")
    assert found["eos_token_id"] == 34
    assert (found["bos_token_id"], found["pad_token_id"], found["mask_token_id"]) == (1, 0, 4)
    generation = json.loads((tmp_path / "chat" / "generation_config.json").read_text())
    assert generation == {"eos_token_id": [34, 2], "pad_token_id": 2, "top_p": 0.5}
    merged({**recipe, "tokenizer_source": "union"}, tmp_path / "union")
    assert config_of(tmp_path / "union")["eos_token_id"] == 2


def test_ids_follow_their_tokens(tmp_path: Path) -> None:
    base = save_model(tmp_path / "a", 0, added=["<x>", "<y>"], image_token_id=33)
    other = save_model(tmp_path / "b", 1, added=["<y>", "<x>"])
    recipe = weighted([base, other], base_model=base, tokenizer_source=other)
    merged(recipe, tmp_path / "out")
    assert config_of(tmp_path / "out")["image_token_id"] == 34


def test_a_model_in_a_nested_config(tmp_path: Path) -> None:
    base = save_model(tmp_path / "a", 0)
    chat = save_model(tmp_path / "b", 1, added=CHAT)
    for folder in (tmp_path / "a", tmp_path / "b"):
        flat = config_of(folder)
        nested = {"model_type": "llava", "text_config": flat, "vision_config": {"vocab_size": 7}}
        (folder / "config.json").write_text(json.dumps(nested))
    recipe = weighted([base, chat], base_model=base, tokenizer_source="union")
    found = planned(recipe).config
    assert found["text_config"]["vocab_size"] == 35
    assert found["vision_config"]["vocab_size"] == 7
    assert "vocab_size" not in found
