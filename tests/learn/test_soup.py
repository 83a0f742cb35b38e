"""Learned soups: what is learnt, that the recipe holds all of it, and every refusal."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import cermet
from cermet import (
    BudgetError,
    ExtraError,
    FormatError,
    InputError,
    MismatchError,
    NonFiniteError,
    OutputError,
)
from cermet.inference.texts import Example, TextModel
from cermet.learn import soup as learning
from cermet.learn.examples import read_examples
from cermet.learn.soup import LearnedSoup, Score, memory_needed
from tests.learn.pools import token_ids, write_lines, write_llamas, write_tokenizer
from tests.recipes.pools import save_llama

_QUICK = {"steps": 20, "learning_rate": 0.3}


def _record(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "cermet.json").read_text("utf-8"))
    return found


def _same(one: Path, other: Path) -> bool:
    a, b = cermet.open(one), cermet.open(other)
    return set(a) == set(b) and all(torch.equal(a[n], b[n]) for n in a)


def _loss(folder: str | Path, texts: list[str]) -> float:
    """Mean over tokens, by transformers' own loss, one text after the other."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    total, count = 0.0, 0
    for text in texts:
        ids = torch.tensor([token_ids(text)])
        with torch.no_grad():
            total += float(model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    return total / count


@pytest.fixture(scope="module")
def learned(
    llamas: list[str], cats: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[LearnedSoup, Path]:
    out = tmp_path_factory.mktemp("learned") / "out"
    return cermet.learned_soup(llamas, cats, out, **_QUICK), out


def test_the_model_that_knows_the_texts_gets_the_largest_share(
    learned: tuple[LearnedSoup, Path],
) -> None:
    found, _ = learned
    (shares,) = found.coefficients
    assert sum(shares) == pytest.approx(1, abs=1e-12)
    assert shares[0] == max(shares)
    assert shares[0] > 0.5
    assert found.learned.loss < found.uniform.loss
    assert found.best == found.alone[0] == min(found.alone, key=lambda score: score.loss)
    assert (found.scale, found.measure) == (1.0, "loss")
    assert len(found.curve) == 20
    assert found.curve[-1] < found.curve[0]
    assert (found.learnt_from, found.reported_on) == (32, 8)


def test_the_scores_are_those_of_the_checkpoints(
    learned: tuple[LearnedSoup, Path], llamas: list[str], cats: Path, tmp_path: Path
) -> None:
    found, out = learned
    texts = [e.text for e in learning.part(read_examples(cats), 0).report]
    cermet.merge({"merge_method": "linear", "models": _equal(llamas)}, tmp_path / "uniform")
    assert found.learned.loss == pytest.approx(_loss(out, texts), rel=1e-5)
    assert found.uniform.loss == pytest.approx(_loss(tmp_path / "uniform", texts), rel=1e-5)
    for path, score in zip(llamas, found.alone, strict=True):
        assert score.loss == pytest.approx(_loss(path, texts), rel=1e-5)


def _equal(models: list[str]) -> list[dict[str, Any]]:
    return [{"model": m, "parameters": {"weight": 1}} for m in models]


def test_the_recipe_makes_the_same_soup_and_the_record_tells_how_it_was_found(
    learned: tuple[LearnedSoup, Path], tmp_path: Path
) -> None:
    found, out = learned
    record = _record(out)
    cermet.merge(record["recipe"], tmp_path / "again")
    assert _same(out, tmp_path / "again")
    notes = record["notes"]["learned_soup"]
    assert notes["coefficients"] == [list(found.coefficients[0])]
    assert notes["curve"] == list(found.curve)
    assert notes["settings"]["steps"] == 20
    assert cermet.verify(out).problems == []


def test_by_layer(llamas: list[str], cats: Path, tmp_path: Path) -> None:
    found = cermet.learned_soup(llamas, cats, tmp_path / "out", by_layer=True, **_QUICK)
    assert found.groups == ("before", "model.layers.0", "model.layers.1", "after")
    assert all(sum(row) == pytest.approx(1, abs=1e-12) for row in found.coefficients)
    assert len(set(found.coefficients)) == 4
    cermet.merge(_record(tmp_path / "out")["recipe"], tmp_path / "again")
    assert _same(tmp_path / "out", tmp_path / "again")
    made, parts = cermet.open(tmp_path / "out"), [cermet.open(m) for m in llamas]
    for group, name in zip(found.groups, (
        "model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight",
        "model.layers.1.input_layernorm.weight", "lm_head.weight",
    ), strict=True):  # fmt: skip
        shares = found.coefficients[found.groups.index(group)]
        wanted = sum(a * p[name].double() for a, p in zip(shares, parts, strict=True))
        torch.testing.assert_close(made[name].double(), wanted, rtol=1e-6, atol=1e-7)


def test_tied_weights_stay_tied(cats: Path, tmp_path: Path) -> None:
    models = write_llamas(tmp_path, tied=True)
    found = cermet.learned_soup(models, cats, tmp_path / "out", by_layer=True, **_QUICK)
    assert "lm_head.weight" not in cermet.open(tmp_path / "out")
    texts = [e.text for e in learning.part(read_examples(cats), 0).report]
    assert found.learned.loss == pytest.approx(_loss(tmp_path / "out", texts), rel=1e-5)


def test_classifiers(berts: list[str], labelled: Path, tmp_path: Path) -> None:
    found = cermet.learned_soup(berts, labelled, tmp_path / "out", by_layer=True, **_QUICK)
    assert found.learned.loss < found.uniform.loss
    assert found.best == found.alone[1]
    assert found.best.accuracy == 1.0
    assert found.scale > 1.0  # it is sure of too little
    assert found.measure == "accuracy"
    assert found.groups[1:-1] == ("bert.encoder.layer.0", "bert.encoder.layer.1")
    kind = transformers.AutoModelForSequenceClassification
    model = kind.from_pretrained(tmp_path / "out").eval()
    losses = []
    for example in learning.part(read_examples(labelled), 0).report:
        ids, label = torch.tensor([token_ids(example.text)]), ["cat", "dog"].index(example.label)
        with torch.no_grad():
            losses.append(float(model(input_ids=ids, labels=torch.tensor([label])).loss))
    assert found.learned.loss == pytest.approx(sum(losses) / len(losses), rel=1e-4)


def test_the_same_seed_gives_the_same_bits_and_another_does_not(
    llamas: list[str], cats: Path, tmp_path: Path
) -> None:
    made = [
        cermet.learned_soup(llamas, cats, tmp_path / str(i), steps=3, seed=seed)
        for i, seed in enumerate((5, 5, 6))
    ]
    assert made[0] == made[1]
    assert made[0].curve != made[2].curve
    assert _same(tmp_path / "0", tmp_path / "1")


def test_the_gradient_is_that_of_the_loss(llamas: list[str]) -> None:
    mixture = learning._Mixture([Path(m) for m in llamas], labelled=False, longest=16)
    examples = [Example("the cat sat on a mat"), Example("some dog ran")]

    def loss(raw: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return mixture.losses(examples, raw.softmax(-1), scale).total

    raw, scale = torch.tensor([[0.3, -0.2, 0.1]], requires_grad=True), torch.tensor(0.9)
    scale.requires_grad_()
    loss(raw, scale).backward()  # type: ignore[no-untyped-call]
    step = 1e-2
    for index in range(3):
        change = torch.zeros_like(raw)
        change[0, index] = step
        with torch.no_grad():
            slope = (loss(raw + change, scale) - loss(raw - change, scale)) / (2 * step)
        assert raw.grad is not None
        assert float(raw.grad[0, index]) == pytest.approx(float(slope), rel=0.02, abs=2e-3)
    with torch.no_grad():
        slope = (loss(raw, scale + step) - loss(raw, scale - step)) / (2 * step)
    assert float(scale.grad) == pytest.approx(float(slope), rel=0.02)  # type: ignore[arg-type]


def test_one_model_is_itself(llamas: list[str], cats: Path, tmp_path: Path) -> None:
    found = cermet.learned_soup(llamas[:1], cats, tmp_path / "out", steps=2)
    assert found.coefficients == ((1.0,),)
    assert _same(tmp_path / "out", Path(llamas[0]))


def test_what_was_learnt_is_not_learnt_again(
    llamas: list[str], cats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "shares.safetensors"
    found = cermet.learned_soup(llamas, cats, tmp_path / "a", steps=2, coefficients=file)
    monkeypatch.setattr("cermet.soups.learn_soup", None)
    again = cermet.learned_soup(llamas, cats, tmp_path / "b", steps=2, coefficients=file)
    assert again == found
    assert _same(tmp_path / "a", tmp_path / "b")
    assert load_file(file)["coefficients"].tolist() == [list(found.coefficients[0])]
    with pytest.raises(OutputError, match="learnt from other"):
        cermet.learned_soup(llamas, cats, tmp_path / "c", steps=3, coefficients=file)
    save_file({"x": torch.zeros(1)}, file)
    with pytest.raises(FormatError, match="coefficients"):
        cermet.learned_soup(llamas, cats, tmp_path / "c", steps=2, coefficients=file)
    assert not (tmp_path / "c").exists()


def test_an_adapter_is_part_of_its_model(llamas: list[str], cats: Path, tmp_path: Path) -> None:
    module = "base_model.model.model.layers.0.self_attn.q_proj"
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    factors = {
        f"{module}.lora_A.weight": torch.ones(2, 8),
        f"{module}.lora_B.weight": torch.ones(8, 2),
    }
    save_file(factors, adapter / "adapter_model.safetensors")
    pair = f"{llamas[0]}+{adapter}"
    cermet.merge({"merge_method": "linear", "models": _equal([pair])}, tmp_path / "whole")
    found = cermet.learned_soup([llamas[1], pair], cats, tmp_path / "out", steps=1)
    texts = [e.text for e in learning.part(read_examples(cats), 0).report]
    assert found.alone[1].loss == pytest.approx(_loss(tmp_path / "whole", texts), rel=1e-5)
    assert not list(tmp_path.glob(".*"))


def test_what_is_better_is_told_by_what_counts() -> None:
    good, bad = Score(loss=1.0, accuracy=0.4), Score(loss=2.0, accuracy=0.6)
    rest = LearnedSoup(("all",), ((1.0,),), 1.0, (1.0,), 4, 1, (bad,), bad, bad, "loss")
    assert replace(rest, learned=good).surpassed_by is None
    assert rest.surpassed_by is None
    assert replace(rest, uniform=good).surpassed_by == "the uniform soup"
    assert replace(rest, alone=(bad, good)).surpassed_by == "the best model"
    chosen = replace(rest, alone=(good, bad), uniform=good, learned=good, measure="accuracy")
    assert chosen.best == bad
    assert chosen.surpassed_by == "the best model"


# -- refusals -----------------------------------------------------------------


def _refused(kind: type[Exception], said: str, *arguments: Any, **options: Any) -> None:
    with pytest.raises(kind, match=said) as caught:
        cermet.learned_soup(*arguments, **options)
    assert "\n" not in str(caught.value)


def test_refused_before_anything_is_loaded(
    llamas: list[str], cats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cermet.soups.learn_soup", None)
    out = tmp_path / "out"
    _refused(InputError, "at least one", [], cats, out)
    _refused(InputError, "steps", llamas, cats, out, steps=0)
    _refused(InputError, "learning rate", llamas, cats, out, learning_rate=float("nan"))
    _refused(InputError, "The data", llamas, tmp_path / "none", out)
    _refused(MismatchError, "layers", [*llamas, save_llama(tmp_path / "m", layers=3)], cats, out)
    _refused(OutputError, "is merged", llamas, cats, llamas[0])
    monkeypatch.setattr("cermet.soups.available_memory", lambda: 10_000)
    _refused(BudgetError, "greedy soup", llamas, cats, out)
    assert not out.exists()


def test_memory_counts_models_and_logits() -> None:
    settings = learning.Settings(batch=2, longest=8)
    assert memory_needed(1000, 3, 50, settings) == 4 * (6 * 1000 + 3 * 2 * 8 * 50)


def test_no_memory_is_known_where_the_kernel_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cermet.engine import memory

    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:  8 kB\n")
    monkeypatch.setattr(memory, "_MACHINE", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_GROUP", tmp_path)
    assert memory.available_memory() == 8192
    for name, text in {
        "memory.max": "5000",
        "memory.current": "3000",
        "memory.stat": "x 1\ninactive_file 7\n",
    }.items():
        (tmp_path / name).write_text(text)
    assert memory.available_memory() == 2007
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available_memory() == 8192
    (tmp_path / "meminfo").unlink()
    assert memory.available_memory() is None


def test_refused_by_the_model(
    llamas: list[str], berts: list[str], labelled: Path, cats: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    bare = save_llama(tmp_path / "bare")
    _refused(InputError, "holds no tokenizer", [bare], cats, out)
    _refused(InputError, "not a whole sequence classifier", llamas, labelled, out)
    _refused(InputError, "not a whole causal language model", berts, cats, out)
    wrong = write_lines(tmp_path / "wrong.jsonl", [{"text": t, "label": "cow"} for t in "ab"])
    _refused(InputError, "'cow' is none of", berts, wrong, out)
    (tmp_path / "bare" / "config.json").write_text('{"model_type": "novel"}')
    write_tokenizer(tmp_path / "bare")
    _refused(FormatError, "cannot be loaded", [bare], cats, out)
    assert not out.exists()


def test_a_loss_that_is_no_number(llamas: list[str], cats: Path, tmp_path: Path) -> None:
    tensors = load_file(f"{llamas[0]}/model.safetensors")
    tensors["model.norm.weight"] *= 1e38
    model = Path(llamas[0])
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in model.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    save_file(
        {n: t * 1e30 if "norm" in n else t for n, t in tensors.items()},
        broken / "model.safetensors",
        metadata={"format": "pt"},
    )
    _refused(NonFiniteError, "loss of step 1", [llamas[0], str(broken)], cats, tmp_path / "out")


def test_without_transformers_the_extra_is_named(
    llamas: list[str], cats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    _refused(ExtraError, r"pip install 'cermet\[load\]'", llamas, cats, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_model_that_loads_into_other_weights(
    llamas: list[str], cats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Headers that agree and modules that do not: a config that says something else."""
    own = TextModel.weights

    def fewer(self: TextModel) -> dict[str, torch.Tensor]:
        found = own(self)
        if str(self._folder) == llamas[1]:
            found.popitem()
        return found

    monkeypatch.setattr(TextModel, "weights", fewer)
    _refused(MismatchError, "has other weights", llamas, cats, tmp_path / "out")
