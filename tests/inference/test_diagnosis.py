"""`cermet verify --load`: a merge beside its sources on a few sentences, and what is said of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from cermet import api
from cermet.cli.app import main
from cermet.core.errors import ExtraError, InputError
from cermet.diagnosis import diagnose
from cermet.inference.logits import outputs_of
from tests.recipes.pools import config_of, llama, llama_config, save, save_llama

_SMALL = {"hidden_size": 16, "intermediate_size": 24, "vocab_size": 40, "num_attention_heads": 2,
          "num_hidden_layers": 2}  # fmt: skip


def _bert(folder: Path, kind: Any = transformers.BertForMaskedLM, seed: int = 0) -> str:
    """A BERT that is a little off a common one, as experts are."""
    torch.manual_seed(0)
    model = kind(transformers.BertConfig(**_SMALL, max_position_embeddings=64))
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.001 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return str(folder)


def _merge(out: Path, *models: str, weight: float = 1.0, normalize: bool = True) -> Path:
    listed = [{"model": m, "parameters": {"weight": weight}} for m in models]
    numbers = {"normalize": normalize}
    api.merge({"merge_method": "linear", "models": listed, "parameters": numbers}, out)
    return out


def test_a_sound_llama(tmp_path: Path) -> None:
    paths = [save_llama(tmp_path / str(i), i) for i in range(2)]
    rows, verdict = diagnose(_merge(tmp_path / "out", *paths))
    assert [r.name for r in rows] == [str(tmp_path / "out"), *paths]
    assert {r.architecture for r in rows} == {"LlamaForCausalLM"}
    assert all(r.finite for r in rows)
    assert all(r.loss is not None and 3 < r.loss < 5 for r in rows)  # guessing: ln 40 = 3.7
    assert rows[0].agreement is None
    assert all(r.agreement is not None and 0 <= r.agreement <= 1 for r in rows[1:])
    assert verdict.startswith("The merge reads plain text about as well as its sources (3.")


def test_a_sound_bert(tmp_path: Path) -> None:
    paths = [_bert(tmp_path / str(i), seed=i) for i in range(2)]
    rows, verdict = diagnose(_merge(tmp_path / "out", *paths))
    assert {r.architecture for r in rows} == {"BertForMaskedLM"}
    assert all(r.finite for r in rows)
    assert all(r.agreement is not None and r.agreement > 0.5 for r in rows[1:])
    assert verdict.startswith("The merge reads plain text about as well")


def test_a_merge_that_is_a_copy_agrees_with_its_source_alone(tmp_path: Path) -> None:
    a, b = (save_llama(tmp_path / str(i), i) for i in range(2))
    recipe = {"merge_method": "slerp", "base_model": a, "models": [{"model": b}]}
    api.merge({**recipe, "parameters": {"t": 1.0}}, tmp_path / "out")
    rows, _ = diagnose(tmp_path / "out")
    found = {r.name: r.agreement for r in rows[1:]}
    assert found[b] == 1.0
    assert found[a] is not None
    assert found[a] < 0.9


def test_an_encoder_without_a_head_has_no_loss(tmp_path: Path) -> None:
    paths = [_bert(tmp_path / str(i), transformers.BertModel, i) for i in range(2)]
    rows, verdict = diagnose(_merge(tmp_path / "out", *paths))
    assert {(r.architecture, r.finite, r.loss, r.agreement) for r in rows} == {
        ("BertModel", True, None, None)
    }
    assert verdict == "The merge loads and gives finite outputs."


def test_a_bad_merge_is_told_from_a_sound_one(tmp_path: Path) -> None:
    paths = [save_llama(tmp_path / str(i), i) for i in range(2)]
    rows, verdict = diagnose(_merge(tmp_path / "out", *paths, weight=40, normalize=False))
    assert rows[0].finite
    assert rows[0].loss is not None
    assert rows[0].loss > 10
    for words in ("far more surprised", "try smaller weights", "share a base"):
        assert words in verdict


def test_a_merge_that_gives_no_numbers_is_broken(tmp_path: Path) -> None:
    path = save_llama(tmp_path / "a", 1)
    out = _merge(tmp_path / "out", path, path)
    save(out, {**llama(1), "model.norm.weight": torch.full((16,), torch.inf)})
    rows, verdict = diagnose(out)
    assert not rows[0].finite
    assert [r.agreement for r in rows[1:]] == [None, None][: len(rows) - 1]
    assert verdict == "The merge gives NaN or infinity: it is broken."


def test_a_masked_model_is_asked_for_the_token_itself(tmp_path: Path) -> None:
    """Its loss is that of the token at a position, not of the one after it."""
    path = Path(_bert(tmp_path / "a"))
    model = transformers.BertForMaskedLM.from_pretrained(path).eval()
    found = outputs_of(path)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(4):
        ids = torch.randint(40, (1, 16), generator=generator)
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0]
        losses.append(torch.nn.functional.cross_entropy(logits, ids[0]))
    assert found.loss == pytest.approx(float(torch.stack(losses).mean()), rel=1e-5)


def test_the_tokenizer_is_used_where_there_is_one(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"[UNK]": 0, "The": 1, "capital": 2, "of": 3, "is": 4}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    path = Path(save_llama(tmp_path / "a", 1))
    without = outputs_of(path).values
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(path)
    found = outputs_of(path).values
    assert found.shape[1] == 40
    assert found.shape != without.shape
    again = transformers.AutoModelForCausalLM.from_pretrained(path).eval()
    with torch.no_grad():
        first = again(input_ids=torch.tensor([[1, 2, 3, 0, 4]])).logits[0]
    torch.testing.assert_close(found[:5], first)


@pytest.mark.parametrize(
    "changes", [{"architectures": ["NovelForCausalLM"]}, {"model_type": "novel"}]
)
def test_what_cannot_be_loaded_is_one_sentence(changes: dict[str, Any], tmp_path: Path) -> None:
    path = Path(save_llama(tmp_path / "a", 1))
    (path / "config.json").write_text(json.dumps({**config_of(path), **changes}))
    with pytest.raises(InputError, match=r"transformers knows no|could not be run on") as caught:
        outputs_of(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_that_takes_no_text_is_one_sentence(tmp_path: Path) -> None:
    config = transformers.ViTConfig(
        hidden_size=16, intermediate_size=24, num_attention_heads=2, num_hidden_layers=1,
        image_size=8, patch_size=4,
    )  # fmt: skip
    transformers.ViTModel(config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="could not be run on text"):
        outputs_of(tmp_path)


def test_without_transformers_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ExtraError, match=r"pip install 'cermet\[load\]'"):
        outputs_of(tmp_path)


def test_the_command_prints_a_row_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [save(tmp_path / str(i), llama(i), llama_config()) for i in range(2)]
    out = _merge(tmp_path / "out", *paths)
    monkeypatch.setattr(sys, "argv", ["cermet", "verify", str(out), "--load"])
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    said = capsys.readouterr().out
    for path in (str(out), *paths):
        (line,) = [row for row in said.splitlines() if row.startswith(f"{path} ")]
        assert "LlamaForCausalLM  yes" in line
    assert "The merge reads plain text" in said


def test_a_model_whose_library_is_missing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Transformers asks for other libraries, or a GPU, to load weights of eight bits."""

    def missing(*_: object) -> None:
        raise ImportError("Using fbgemm fp8 quantization requires a GPU or XPU")

    monkeypatch.setattr("cermet.inference.logits._model", missing)
    with pytest.raises(InputError, match="could not be run on text: Using fbgemm fp8"):
        outputs_of(tmp_path)
