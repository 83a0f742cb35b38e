"""Whatever is run from a folder is read by one way, which refuses what is not whole."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from cermet.core.errors import FormatError, InputError, MismatchError
from cermet.inference.encoder import Encoder
from cermet.inference.loading import load_module, load_tokenizer, quiet
from cermet.inference.network import Network
from cermet.inference.texts import TextModel
from tests.evaluate.models import save_bert, save_llama

_READERS: dict[str, Callable[[Path], object]] = {
    "llama network": lambda folder: Network(folder, "causal"),
    "llama texts": lambda folder: TextModel(folder, labelled=False, longest=8),
    "bert network": lambda folder: Network(folder, "encoder"),
    "bert encoder": Encoder,
}


def _save(reader: str, folder: Path) -> None:
    (save_llama if reader.startswith("llama") else save_bert)(folder, 1)


@pytest.mark.parametrize("reader", _READERS)
def test_nothing_may_be_missing_or_left_over(reader: str, tmp_path: Path) -> None:
    names = {
        "llama": "model.layers.0.mlp.up_proj.weight",
        "bert": "encoder.layer.0.output.dense.bias",
    }
    lost = names[reader.split()[0]]
    _save(reader, tmp_path)
    _READERS[reader](tmp_path)
    whole = load_file(tmp_path / "model.safetensors")
    save_file({n: t for n, t in whole.items() if n != lost}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=f"is not a whole .*: it lacks '{re.escape(lost)}'"):
        _READERS[reader](tmp_path)
    save_file({**whole, "more.weight": torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(MismatchError, match=r"holds 'more\.weight', which is no part"):
        _READERS[reader](tmp_path)


@pytest.mark.parametrize("reader", ["llama texts", "bert encoder"])
def test_what_reads_texts_needs_a_tokenizer(reader: str, tmp_path: Path) -> None:
    _save(reader, tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(FormatError, match=r"tokenizer of .* cannot be read"):
        _READERS[reader](tmp_path)
    for file in tmp_path.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(InputError, match="holds no tokenizer, so it cannot read texts"):
        _READERS[reader](tmp_path)
    with pytest.raises(InputError, match="holds no tokenizer"):
        load_tokenizer(tmp_path)


def test_a_model_of_another_kind_is_refused_alike(tmp_path: Path) -> None:
    save_bert(tmp_path / "bert")
    with pytest.raises(InputError, match="not a whole sequence classifier: it lacks 'classifier"):
        TextModel(tmp_path / "bert", labelled=True, longest=8)
    with pytest.raises(InputError, match=r"holds no config\.json"):
        Encoder(_with_tokenizer(tmp_path / "empty", tmp_path / "bert"))


def _with_tokenizer(folder: Path, other: Path) -> Path:
    folder.mkdir()
    for file in other.glob("tokenizer*"):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_quiet_ends(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    logging = transformers.utils.logging
    save_bert(tmp_path)
    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    capfd.readouterr()
    with quiet():
        assert not logging.is_progress_bar_enabled()
    load_module(tmp_path, "encoder")
    assert (logging.is_progress_bar_enabled(), logging.get_verbosity()) == (shown, level)
    assert capfd.readouterr().err == ""
