"""What transformers loads of an output whose vocabulary was changed, for every tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from cermet import api
from tests.checkpoints.tokenizers import KINDS, TEXT
from tests.recipes.pools import merged, planned
from tests.recipes.vocabularies import CHAT, EMBED, ids_of, save_model, weighted


def _logits(folder: Path | str, ids: list[int]) -> torch.Tensor:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        found: torch.Tensor = model(torch.tensor([ids])).logits[0]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_union(kind: str, tmp_path: Path) -> None:
    plain = "##zz" if kind == "WordPiece" else "qz"
    base = save_model(tmp_path / "a", 0, kind=kind, added=["<a>"])
    chat = save_model(tmp_path / "b", 1, kind=kind, added=CHAT, more=[plain])
    recipe = weighted([base, chat], base_model=base, tokenizer_source="union")
    found = merged(recipe, tmp_path / "out")[EMBED]
    ours, theirs = (transformers.AutoTokenizer.from_pretrained(p) for p in (tmp_path / "out", base))
    assert ours(TEXT)["input_ids"] == theirs(TEXT)["input_ids"]
    assert len(ours) == len(theirs) + 3 == found.shape[0]
    ids = ids_of(tmp_path / "out")
    assert {t: i for t, i in ids.items() if t in ids_of(base)} == ids_of(base)
    for token in ("<a>", *CHAT):
        assert ours(token)["input_ids"] == [ids[token]]
        owner = base if token == "<a>" else chat
        donor = api.open(owner)[EMBED][ids_of(owner)[token]]
        torch.testing.assert_close(found[ids[token]], donor, rtol=0, atol=1e-8)
    said = f"{CHAT[0]}the cat{CHAT[1]}"
    assert ours.decode(ours(said)["input_ids"]).replace(" ", "") == said.replace(" ", "")
    torch.testing.assert_close(found[ids[plain]], api.open(chat)[EMBED][ids_of(chat)[plain]])
    assert torch.isfinite(_logits(tmp_path / "out", ours(said)["input_ids"])).all()


@pytest.mark.parametrize("kind", ["unigram", "SentencePiece BPE"])
def test_a_class_of_its_own_loads_the_union(kind: str, tmp_path: Path) -> None:
    """LlamaTokenizer and T5Tokenizer build their own pipeline around the vocabulary."""
    named = "LlamaTokenizer" if kind.endswith("BPE") else "T5Tokenizer"
    models = [save_model(tmp_path / n, i, kind=kind, added=[f"<{n}>"]) for i, n in enumerate("ab")]
    for folder in models:
        path = Path(folder) / "tokenizer_config.json"
        config = {**json.loads(path.read_text()), "tokenizer_class": named}
        if named == "T5Tokenizer":
            config |= {"extra_ids": 0, "pad_token": "<s>"}
        path.write_text(json.dumps(config))
    merged(weighted(models, tokenizer_source="union"), tmp_path / "out")
    ours, theirs = (
        transformers.AutoTokenizer.from_pretrained(p) for p in (tmp_path / "out", models[0])
    )
    assert type(ours).__name__ == named
    ids = ids_of(tmp_path / "out")
    assert ours("the cat")["input_ids"] == theirs("the cat")["input_ids"]
    assert ours.convert_tokens_to_ids(["<a>", "<b>"]) == [ids["<a>"], ids["<b>"]]
    assert ids["<b>"] in ours("the <b>")["input_ids"]


def test_equal_models_give_the_same_logits_in_any_vocabulary(tmp_path: Path) -> None:
    base = save_model(tmp_path / "a", 0)
    chat = save_model(tmp_path / "b", 0, added=CHAT)
    short, long = api.open(base), dict(api.open(chat))
    for name, tensor in short.items():  # the same model, but for its two tokens more
        long[name] = torch.cat([tensor, long[name][33:]]) if len(tensor) == 33 else tensor
    from tests.recipes.pools import llama_config, save

    save(tmp_path / "b", {n: t.clone() for n, t in long.items()}, llama_config(1, vocab_size=35))
    ids = [1, 5, 30, 12, 7]
    expected = _logits(base, ids)
    for source in ("base", "union", chat):
        out = tmp_path / str(["base", "union", chat].index(source))
        merged(weighted([base, chat], base_model=base, tokenizer_source=source), out)
        torch.testing.assert_close(_logits(out, ids)[:, :33], expected)
    torch.testing.assert_close(_logits(tmp_path / "1", [*ids, 34]), _logits(chat, [*ids, 34]))


def test_a_token_that_only_the_other_model_looks_for(tmp_path: Path) -> None:
    base = save_model(tmp_path / "a", 0, more=[CHAT[0]])
    chat = save_model(tmp_path / "b", 1, added=CHAT)
    recipe = weighted([base, chat], base_model=base, tokenizer_source="union")
    merged(recipe, tmp_path / "out")
    ours = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert len(ours) == 35
    assert ours(f"{CHAT[0]}a{CHAT[1]}")["input_ids"] == [33, ours("a")["input_ids"][0], 34]


def test_files_that_no_longer_agree_are_not_carried(tmp_path: Path) -> None:
    base = save_model(tmp_path / "a", 0)
    chat = save_model(tmp_path / "b", 1, added=CHAT)
    beside = {"added_tokens.json": "{}", "tokenizer.model": "x", "vocab.json": "{}",
              "merges.txt": ""}  # fmt: skip
    for name, text in beside.items():
        (tmp_path / "a" / name).write_text(text)
    path = tmp_path / "a" / "tokenizer_config.json"
    decoder = {"0": {"content": "<unk>", "special": True}}
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "added_tokens_decoder": decoder, "pad_token": "<gone>"}))
    recipe = weighted([base, chat], base_model=base)
    merged({**recipe, "tokenizer_source": "union"}, tmp_path / "union")
    assert not {*beside} & {p.name for p in (tmp_path / "union").iterdir()}
    written = json.loads((tmp_path / "union" / "tokenizer_config.json").read_text())
    listed = {int(i): e["content"] for i, e in written["added_tokens_decoder"].items()}
    assert listed == {0: "<unk>", 1: "<s>", 2: "</s>", 33: CHAT[0], 34: CHAT[1]}
    merged({**recipe, "tokenizer_source": "base"}, tmp_path / "base")
    assert {*beside} <= {p.name for p in (tmp_path / "base").iterdir()}


def test_tokens_without_a_row_are_left_out(tmp_path: Path) -> None:
    base = save_model(tmp_path / "a", 0, added=["<pad>"], rows=33)
    path = tmp_path / "a" / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "pad_token": "<pad>"}))
    chat = save_model(tmp_path / "b", 1, added=CHAT)
    recipe = weighted([base, chat], base_model=base, tokenizer_source="union")
    found = merged(recipe, tmp_path / "out")[EMBED]
    ours = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert len(ours) == found.shape[0] == 35
    assert ours.pad_token is None
    assert ours.convert_tokens_to_ids(list(CHAT)) == [33, 34]


@pytest.mark.parametrize(
    ("template", "found"),
    [("auto", "{{ b }}"), ("chatml", "<|im_start|>"), ("{{ messages[0] }}", "{{ messages[0] }}")],
)
def test_chat_templates(template: str, found: str, tmp_path: Path) -> None:
    models = [save_model(tmp_path / n, i, added=[f"<{n}>"]) for i, n in enumerate("abc")]
    for folder in models[1:]:
        (Path(folder) / "chat_template.jinja").write_text("{{ b }}")
    recipe = weighted(models, tokenizer_source="union", chat_template=template)
    merged(recipe, tmp_path / "out")
    ours = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert found in ours.chat_template


def test_what_text_does_not_reach_is_said(tmp_path: Path) -> None:
    base = save_model(tmp_path / "a", 0)
    more = save_model(tmp_path / "b", 1, more=["qz", "é"])
    (warning,) = planned(weighted([base, more], tokenizer_source="union")).warnings
    assert warning.startswith("Text does not reach the token 'qz': ")


def _recipe_of_slices(base: str, chat: str) -> dict[str, Any]:
    sources = [{"model": m, "layer_range": [0, 1]} for m in (base, chat)]
    return {"merge_method": "passthrough", "slices": [{"sources": [s]} for s in sources]}


def test_stacked_layers_take_the_vocabulary_too(tmp_path: Path) -> None:
    base = save_model(tmp_path / "a", 0)
    chat = save_model(tmp_path / "b", 1, added=CHAT)
    recipe = {**_recipe_of_slices(base, chat), "tokenizer_source": "union"}
    found = merged(recipe, tmp_path / "out")
    assert found[EMBED].shape == found["lm_head.weight"].shape == (35, 16)
    torch.testing.assert_close(found[EMBED][:33], api.open(base)[EMBED])
    torch.testing.assert_close(found[EMBED][33:], api.open(chat)[EMBED][33:])
    assert torch.equal(found["lm_head.weight"], api.open(chat)["lm_head.weight"])
    assert torch.isfinite(_logits(tmp_path / "out", [1, 34, 5])).all()
