"""A model with another one's tokenizer: shared rows move, the others are made of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import cermet
from cermet import api
from cermet.core.errors import (
    BudgetError,
    InputError,
    MismatchError,
    NonFiniteError,
    OutputError,
)
from tests.checkpoints.tokenizers import KINDS, save_tokenizer
from tests.recipes.pools import config_of
from tests.recipes.vocabularies import CHAT, EMBED, HEAD, ids_of, save_model

WORDS = ("cat", "dog", "sat", "mat")


def _rewrite(folder: Path | str, changes: dict[str, Tensor | None]) -> None:
    file = Path(folder) / "model.safetensors"
    values = {name: t.clone() for name, t in load_file(file).items()} | changes
    kept = {name: t for name, t in values.items() if t is not None}
    save_file(kept, file, metadata={"format": "pt"})


def _reorder(folder: Path | str, words: tuple[str, ...]) -> None:
    """Give a folder's tokenizer other words, which changes its ids."""
    save_tokenizer(Path(folder), more=words)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A model with three words of its own and a donor with two and two special tokens."""
    model = save_model(tmp_path / "a", 0, more=("cat", "dog"))
    donor = save_model(tmp_path / "b", 1, more=("cow", "cat", "pig"), added=CHAT)
    return Path(model), Path(donor)


def test_shared_rows_keep_their_bytes_and_all_else_is_copied(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    model, donor = pair
    done = cermet.transplant(model, donor, tmp_path / "out", k=8)
    before, after = load_file(model / "model.safetensors"), dict(api.open(tmp_path / "out"))
    own, theirs = ids_of(model), ids_of(donor)
    shared = [t for t in theirs if t in own]
    for name in (EMBED, HEAD):
        assert after[name].shape == (len(theirs), 16)
        new = after[name][[theirs[t] for t in shared]]
        torch.testing.assert_close(new, before[name][[own[t] for t in shared]], rtol=0, atol=0)
    others = set(before) - {EMBED, HEAD}
    assert all(torch.equal(before[name], after[name]) for name in others)
    assert (done.tokens, done.rows) == (len(theirs), len(theirs))
    assert (done.shared, done.approximated, done.unknown) == (len(shared), 4, 0)
    assert ids_of(tmp_path / "out") == theirs
    assert config_of(tmp_path / "out")["vocab_size"] == len(theirs)


@pytest.mark.parametrize("rows", [None, 64])
@pytest.mark.parametrize("head", [True, False])
def test_its_own_tokenizer_changes_nothing(rows: int | None, head: bool, tmp_path: Path) -> None:
    """Padded or not, tied or not; not a byte of the weights."""
    model = save_model(tmp_path / "a", rows=rows, head=head, dtype=torch.bfloat16)
    donor = save_model(tmp_path / "b", 5, rows=rows, head=head, dtype=torch.bfloat16)
    for other in (model, donor):
        done = cermet.transplant(model, other, tmp_path / "out", overwrite=True)
        before, after = (Path(p) / "model.safetensors" for p in (model, tmp_path / "out"))
        assert after.read_bytes() == before.read_bytes()
        assert done.approximated == 0
        assert config_of(tmp_path / "out") == config_of(model)


def test_a_row_that_is_a_sum_of_shared_rows_becomes_that_sum(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    """In the model's own space, whatever its width: the same tokens, the same shares."""
    model, donor = pair
    own, theirs = ids_of(model), ids_of(donor)
    values = load_file(donor / "model.safetensors")
    parts = {"c": 1.5, "at": -2.0}
    changed: dict[str, Tensor | None] = {}
    for name in (EMBED, HEAD):
        matrix = values[name].clone()
        matrix[theirs["cow"]] = sum(s * matrix[theirs[t]] for t, s in parts.items())
        changed[name] = matrix
    _rewrite(donor, changed)
    done = cermet.transplant(model, donor, tmp_path / "out", k=4)
    before, after = load_file(model / "model.safetensors"), api.open(tmp_path / "out")
    for name, error in zip((EMBED, HEAD), done.errors, strict=True):
        wanted = sum(s * before[name][own[t]].double() for t, s in parts.items())
        assert isinstance(wanted, Tensor)
        torch.testing.assert_close(after[name][theirs["cow"]].double(), wanted, rtol=0, atol=1e-6)
        assert error.tensor == name
        assert error.by_token["cow"] < 1e-6
        assert error.by_token["pig"] > 1e-3


def test_the_error_is_that_of_the_donors_rows(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """Measured on a donor that is the model: there the new rows are the approximations."""
    _, donor = pair
    model = save_model(tmp_path / "same", 1, more=("cat",))
    own, theirs = ids_of(model), ids_of(donor)
    values = load_file(donor / "model.safetensors")
    changed: dict[str, Tensor | None] = {}
    for name in (EMBED, HEAD):
        matrix = torch.zeros(len(own), 16)
        for token, row in own.items():
            matrix[row] = values[name][theirs[token]]
        changed[name] = matrix
    _rewrite(model, changed)
    done = cermet.transplant(model, donor, tmp_path / "out", k=5)
    after = api.open(tmp_path / "out")
    for each in done.errors:
        for token, error in each.by_token.items():
            wanted = values[each.tensor][theirs[token]]
            off = (after[each.tensor][theirs[token]] - wanted).norm() / wanted.norm()
            assert error == pytest.approx(float(off), abs=1e-5)
        errors = list(each.by_token.values())
        assert errors == sorted(errors, reverse=True)
        assert each.worst == errors[0]
        assert each.mean == pytest.approx(sum(errors) / len(errors))
        assert each.mean < each.baseline
    listed = json.loads((tmp_path / "out" / "transplant.json").read_text("utf-8"))
    assert listed["errors"] == {e.tensor: dict(e.by_token) for e in done.errors}


def test_the_same_bytes_on_any_number_of_threads(tmp_path: Path) -> None:
    model = save_model(tmp_path / "a", 0, more=WORDS)
    names = [f"tok{i}" for i in range(700)]  # more than are pursued at once
    donor = save_model(tmp_path / "b", 1, more=names)
    outs = []
    for threads in (1, 3):
        cermet.transplant(model, donor, tmp_path / f"o{threads}", k=6, threads=threads)
        outs.append((tmp_path / f"o{threads}" / "model.safetensors").read_bytes())
    assert outs[0] == outs[1]


def test_a_tied_head_stays_tied(tmp_path: Path) -> None:
    model = save_model(tmp_path / "a", 0, head=False)
    donor = save_model(tmp_path / "b", 1, more=WORDS)
    done = cermet.transplant(model, donor, tmp_path / "out", k=8)
    assert [e.tensor for e in done.errors] == [EMBED]
    assert HEAD not in api.open(tmp_path / "out")
    assert config_of(tmp_path / "out")["tie_word_embeddings"] is True


def test_a_head_is_made_after_the_embedding_of_a_tied_donor(tmp_path: Path) -> None:
    model = save_model(tmp_path / "a", 0)
    donor = save_model(tmp_path / "b", 1, head=False, more=WORDS)
    done = cermet.transplant(model, donor, tmp_path / "out", k=8)
    assert [e.tensor for e in done.errors] == [EMBED, HEAD]
    assert done.errors[0].by_token == done.errors[1].by_token


def test_padding_is_the_models_where_it_has_some_and_else_made_after_the_donors(
    tmp_path: Path,
) -> None:
    model = save_model(tmp_path / "a", 0, rows=40)
    donor = save_model(tmp_path / "b", 1, rows=48)
    done = cermet.transplant(model, donor, tmp_path / "out", k=8)
    tokens = len(ids_of(donor))
    assert (done.tokens, done.rows, done.approximated) == (tokens, 48, 8)
    before, after = load_file(Path(model) / "model.safetensors"), api.open(tmp_path / "out")
    assert torch.equal(after[EMBED][:40], before[EMBED])
    assert (done.shared, done.unknown) == (40, 0)
    assert "[row 47]" in done.errors[0].by_token
    assert bool((after[EMBED][40:] != 0).all())


def test_tokens_beyond_the_donors_rows_are_zero(tmp_path: Path) -> None:
    model = save_model(tmp_path / "a", 0)
    donor = save_model(tmp_path / "b", 1, added=CHAT)
    values = load_file(Path(donor) / "model.safetensors")
    _rewrite(donor, {name: values[name][:-1].clone() for name in (EMBED, HEAD)})
    done = cermet.transplant(model, donor, tmp_path / "out", k=8)
    assert (done.approximated, done.unknown) == (1, 1)
    assert not api.open(tmp_path / "out")[EMBED][-1].any()


def test_a_heads_bias_follows_its_matrix(tmp_path: Path) -> None:
    """A bias that is linear in the rows stays so."""
    model = save_model(tmp_path / "a", 0)
    donor = save_model(tmp_path / "b", 1, more=WORDS)
    before = load_file(Path(model) / "model.safetensors")
    along = torch.arange(16.0)
    _rewrite(model, {"lm_head.bias": before[HEAD] @ along})
    cermet.transplant(model, donor, tmp_path / "out", k=8)
    after = api.open(tmp_path / "out")
    torch.testing.assert_close(after["lm_head.bias"], after[HEAD] @ along, rtol=0, atol=1e-4)
    assert api.verify(tmp_path / "out").problems == []


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "byte-level BPE"])
def test_tokens_of_different_kinds_are_matched_by_their_text(kind: str, tmp_path: Path) -> None:
    model = save_model(tmp_path / "a", 0, more=("Ġthe",))
    donor = save_model(tmp_path / "b", 1, kind=kind, more=() if "W" in kind[:1] else ("▁the",))
    cermet.transplant(model, donor, tmp_path / "out", k=2)
    own, theirs = ids_of(model), ids_of(donor)
    words = {"SentencePiece BPE": ("▁the", "t"), "unigram": ("▁the", "t"),
             "WordPiece": ("the", "##t"), "word level": ("the", "<s>")}[kind]  # fmt: skip
    ours = ("Ġthe", "<s>" if kind == "word level" else "t")
    before, after = load_file(Path(model) / "model.safetensors"), api.open(tmp_path / "out")
    for here, there in zip(ours, words, strict=True):
        assert torch.equal(after[EMBED][theirs[there]], before[EMBED][own[here]])


def test_special_tokens_are_matched_by_their_part(tmp_path: Path) -> None:
    model = Path(save_model(tmp_path / "a", 0))
    donor = Path(save_model(tmp_path / "b", 1, added=("<|end|>",)))
    said = json.loads((donor / "tokenizer_config.json").read_text())
    said |= {"eos_token": {"content": "<|end|>"}, "pad_token": "<|end|>"}
    (donor / "tokenizer_config.json").write_text(json.dumps(said))
    config = json.loads((donor / "config.json").read_text())
    end = ids_of(donor)["<|end|>"]
    (donor / "config.json").write_text(json.dumps({**config, "eos_token_id": end}))
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": 2, "top_k": 7}))
    done = cermet.transplant(model, donor, tmp_path / "out", k=4)
    assert done.approximated == 0
    before, after = load_file(model / "model.safetensors"), api.open(tmp_path / "out")
    assert torch.equal(after[EMBED][end], before[EMBED][ids_of(model)["</s>"]])
    assert config_of(tmp_path / "out")["eos_token_id"] == end
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert generation == {"eos_token_id": end, "top_k": 7}


def test_transformers_loads_it_and_old_texts_have_their_logits(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, donor = pair
    cermet.transplant(model, donor, tmp_path / "out", k=8)
    before = AutoModelForCausalLM.from_pretrained(model)
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    old, new = (AutoTokenizer.from_pretrained(f) for f in (model, tmp_path / "out"))
    text = "the mat"
    given = [t(text, return_tensors="pt").input_ids for t in (old, new)]
    tokens = [t.convert_ids_to_tokens(ids[0]) for t, ids in zip((old, new), given, strict=True)]
    assert tokens[0] == tokens[1]
    with torch.no_grad():
        expected, found = before(given[0]).logits, after(given[1]).logits
    assert bool(torch.isfinite(found).all())
    own, theirs = ids_of(model), ids_of(donor)
    shared = [t for t in theirs if t in own]
    torch.testing.assert_close(
        found[..., [theirs[t] for t in shared]], expected[..., [own[t] for t in shared]]
    )
    with torch.no_grad():
        odd = after(new("the cow<|im_end|>", return_tensors="pt").input_ids).logits
    assert bool(torch.isfinite(odd).all())


def test_card_and_record_say_what_was_done(pair: tuple[Path, Path], tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    model, donor = pair
    (donor / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    done = cermet.transplant(model, donor, tmp_path / "out", k=8)
    (warning,) = done.warnings
    assert "excludes commercial use" in warning
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.license == "other"
    assert card.data.tags == ["merge", "cermet", "transplant"]
    assert f"| `{EMBED}` | {done.errors[0].mean:.4f} |" in card.text
    record = json.loads((tmp_path / "out" / "cermet.json").read_text("utf-8"))
    asked = {"model": str(model), "donor": str(donor), "k": 8}
    assert record["recipe"] == {"transplant": asked}
    assert record["transplant"]["errors"][EMBED]["worst"] == done.errors[0].worst
    files = [m["files"][0] for m in record["models"]]
    assert [(f["tensors"], f["tensors_read"]) for f in files] == [(12, 12), (12, 2)]
    present = {p.name for p in (tmp_path / "out").iterdir()}
    assert {*record["files"], "cermet.json"} == present
    found = api.verify(tmp_path / "out")
    assert (found.problems, found.checked) == ([], 12)
    _rewrite(tmp_path / "out", {EMBED: dict(api.open(tmp_path / "out"))[EMBED] * 2})
    assert any(EMBED in problem for problem in api.verify(tmp_path / "out").problems)


def _refused(
    kind: type[cermet.CermetError], match: str, out: Path, *given: Any, **more: Any
) -> None:
    with pytest.raises(kind, match=match):
        cermet.transplant(*given, out, **more)
    assert not out.exists()
    assert not [p for p in out.parent.iterdir() if p.name.startswith(f".{out.name}")]


def test_what_cannot_be_done_is_said_before_anything_is_written(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    model, donor = pair
    out = tmp_path / "out"
    _refused(InputError, r"share \d+ tokens, fewer than the 64.* choose --k \d+", out, model, donor)
    _refused(InputError, "'k' of a transplant is 1 or more, not 0", out, model, donor, k=0)
    _refused(InputError, "There is no folder", out, model, tmp_path / "nowhere")
    with pytest.raises(OutputError, match="so it cannot be the output"):
        cermet.transplant(model, donor, donor, k=4, overwrite=True)
    (donor / "tokenizer.json").unlink()
    (donor / "tokenizer_config.json").unlink()
    _refused(InputError, f"'{donor}' holds no tokenizer", out, model, donor, k=4)


def test_tokenizers_without_a_common_token(tmp_path: Path) -> None:
    model, donor = Path(save_model(tmp_path / "a")), Path(save_model(tmp_path / "b", 1))
    whole = json.loads((donor / "tokenizer.json").read_text("utf-8"))
    whole["added_tokens"] = []
    whole["model"] = {"type": "BPE", "vocab": {"é": 0, "è": 1}, "merges": []}
    (donor / "tokenizer.json").write_text(json.dumps(whole))
    (donor / "tokenizer_config.json").write_text("{}")
    _refused(InputError, "share no token", tmp_path / "out", model, donor, k=1)


def test_models_without_or_with_several_embeddings(pair: tuple[Path, Path], tmp_path: Path) -> None:
    model, donor = pair
    whole = load_file(model / "model.safetensors")
    _rewrite(model, {"encoder.embed_tokens.weight": whole[EMBED].clone()})
    wanted = f"'{model}' has several embeddings of tokens"
    _refused(MismatchError, wanted, tmp_path / "out", model, donor, k=4)
    _refused(MismatchError, wanted, tmp_path / "out", donor, model, k=4)
    _rewrite(model, {"encoder.embed_tokens.weight": None, EMBED: None})
    wanted = f"'{model}' has no embedding of tokens"
    _refused(InputError, wanted, tmp_path / "out", donor, model, k=4)


def test_a_donor_without_a_head(pair: tuple[Path, Path], tmp_path: Path) -> None:
    model, donor = pair
    _rewrite(donor, {HEAD: None})
    _refused(InputError, f"'{donor}' has no head", tmp_path / "out", model, donor, k=4)


@pytest.mark.parametrize("side", ["model", "donor"])
def test_numbers_that_are_none(side: str, pair: tuple[Path, Path], tmp_path: Path) -> None:
    model, donor = pair
    folder = model if side == "model" else donor
    matrix = load_file(folder / "model.safetensors")[EMBED].clone()
    matrix[5, 3] = float("nan")
    _rewrite(folder, {EMBED: matrix})
    wanted = f"Row 5 of '{EMBED}' of model '{folder}' holds NaN"
    _refused(NonFiniteError, wanted, tmp_path / "out", model, donor, k=4)


def test_too_little_memory(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cermet.transplants.available_memory", lambda: 1000)
    _refused(BudgetError, "take fewer threads or a smaller k", tmp_path / "out", *pair, k=4)


def test_a_token_that_an_image_needs(pair: tuple[Path, Path], tmp_path: Path) -> None:
    model, donor = pair
    config = json.loads((model / "config.json").read_text())
    config["image_token_id"] = ids_of(model)["dog"]
    (model / "config.json").write_text(json.dumps(config))
    _refused(MismatchError, "by 'image_token_id'", tmp_path / "out", model, donor, k=4)


def test_an_interrupt_leaves_nothing(pair: tuple[Path, Path], tmp_path: Path) -> None:
    def stop(name: str, nbytes: int) -> None:
        raise KeyboardInterrupt

    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(KeyboardInterrupt):
        cermet.transplant(*pair, tmp_path / "out", k=4, progress=stop)
    assert sorted(tmp_path.rglob("*")) == before
