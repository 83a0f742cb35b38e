"""LoRA adapters that are damaged or do not fit: one sentence each, naming file and tensor."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cermet.checkpoints.lora import AdaptedCheckpoint
from cermet.checkpoints.reader import MemoryCheckpoint
from cermet.core.errors import FormatError, MismatchError

_Spoil = Callable[[Path], None]
_A = "base_model.model.h.0.x.lora_A.weight"
_B = "base_model.model.h.0.x.lora_B.weight"
_TOKENS = "base_model.model.emb.token_adapter.trainable_tokens_delta"
_WEIGHTS = "adapter_model.safetensors"


def _set(**changes: Any) -> _Spoil:
    def spoil(folder: Path) -> None:
        file = folder / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return spoil


def _write(name: str, content: bytes) -> _Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return spoil


def _tensors(changes: Mapping[str, torch.Tensor | None]) -> _Spoil:
    def spoil(folder: Path) -> None:
        file = folder / _WEIGHTS
        # a copy, because the file is mapped while it is read
        values = {k: v.clone() for k, v in load_file(file).items()} | dict(changes)
        save_file({k: v for k, v in values.items() if v is not None}, file)

    return spoil


_MALFORMED: dict[str, tuple[_Spoil, type[Exception], str]] = {
    "no config": (lambda f: (f / "adapter_config.json").unlink(), FormatError, "no such file"),
    "no weights": (lambda f: (f / _WEIGHTS).unlink(), FormatError, "no adapter"),
    "broken json": (_write("adapter_config.json", b'{"r": 4'), FormatError, "JSON"),
    "not utf-8": (_write("adapter_config.json", b"\xff\xfe\x00"), FormatError, "JSON"),
    "deep json": (_write("adapter_config.json", b"[" * 100_000), FormatError, "JSON"),
    "json list": (_write("adapter_config.json", b"[1]"), FormatError, "object"),
    "no type": (_set(peft_type=None), FormatError, "None"),
    "other type": (_set(peft_type="IA3"), FormatError, "IA3"),
    "unknown type": (_set(peft_type="NOVEL"), FormatError, "NOVEL"),
    "replication": (_set(layer_replication=[[0, 1]]), FormatError, "layer_replication"),
    "per token": (_set(alora_invocation_tokens=[1]), FormatError, "alora"),
    "new variant": (_set(use_novel=True), FormatError, "use_novel"),
    "new settings": (_set(novel_config={"a": 1}), FormatError, "novel_config"),
    "pissa": (_set(init_lora_weights="pissa_niter_16"), FormatError, "path_initial_model"),
    "olora": (_set(init_lora_weights="olora"), FormatError, "original base"),
    "corda": (_set(init_lora_weights="corda"), FormatError, "original base"),
    "rank zero": (_set(r=0), FormatError, "rank"),
    "rank text": (_set(r="4"), FormatError, "rank"),
    "alpha null": (_set(lora_alpha=None), FormatError, "alpha"),
    "alpha huge": (_set(lora_alpha=10**400), FormatError, "alpha"),
    "pattern huge": (_set(rank_pattern={"a{99999999999}": 1}), FormatError, "regular expression"),
    "alpha infinite": (_set(lora_alpha=float("inf")), FormatError, "alpha"),
    "pattern list": (_set(rank_pattern=[1]), FormatError, "rank_pattern"),
    "pattern syntax": (_set(alpha_pattern={"(": 1}), FormatError, "regular expression"),
    "flag text": (_set(use_rslora="yes"), FormatError, "use_rslora"),
    "parameters text": (_set(target_parameters="x"), FormatError, "target_parameters"),
    "tokens twice": (_set(trainable_token_indices=[1, 1]), FormatError, "trainable_token"),
    "tokens text": (_set(trainable_token_indices={"x": "1"}), FormatError, "trainable_token"),
    "truncated": (_write(_WEIGHTS, b"\x09\0\0\0\0\0\0\0{"), FormatError, "cut short"),
    "empty file": (_write(_WEIGHTS, b""), FormatError, "cut short"),
    "no tensors": (_tensors({_A: None, _B: None}), FormatError, "holds no"),
    "no A": (_tensors({_A: None}), FormatError, r"not lora_A\.weight"),
    "no B": (_tensors({_B: None}), FormatError, r"not lora_B\.weight"),
    "other part": (
        _tensors({"base_model.model.h.0.x.lora_diag": torch.ones(4)}),
        FormatError,
        "lora_diag",
    ),
    "no magnitude": (_set(use_dora=True), FormatError, "magnitude"),
    "magnitude alone": (
        _tensors({"base_model.model.h.0.x.lora_magnitude_vector": torch.ones(8)}),
        FormatError,
        "use_dora",
    ),
    "other rank": (_set(r=5), MismatchError, "rank 5"),
    "ranks differ": (_tensors({_B: torch.ones(8, 3)}), MismatchError, "rank 4"),
    "flat factor": (_tensors({_A: torch.ones(4)}), MismatchError, "rank 4"),
    "other width": (_tensors({_A: torch.ones(4, 9)}), MismatchError, r"\(8, 6\)"),
    "other module": (
        _tensors({_A.replace("x", "y"): torch.ones(4, 6), _B.replace("x", "y"): torch.ones(8, 4)}),
        MismatchError,
        r"h\.0\.y",
    ),
    "stray tensor": (
        _tensors({"base_model.model.score.weight": torch.ones(2)}),
        MismatchError,
        r"score\.weight",
    ),
    "no bias": (
        _tensors({"base_model.model.h.0.x.lora_B.bias": torch.ones(8)}),
        MismatchError,
        r"lora_B\.bias",
    ),
    "tokens of nothing": (
        _tensors({"base_model.model.e.token_adapter.trainable_tokens_delta": torch.ones(2, 6)}),
        MismatchError,
        "trainable_tokens",
    ),
    "tokens not named": (
        _tensors({_TOKENS: torch.ones(2, 6)}),
        FormatError,
        "says nothing",
    ),
    "replaced shape": (
        _tensors({"base_model.model.emb.weight": torch.ones(12, 6)}),
        MismatchError,
        r"\(10, 6\)",
    ),
    "counter as weight": (
        _tensors({"base_model.model.ids": torch.ones(3)}),
        MismatchError,
        "I64",
    ),
}


def _save(folder: Path) -> None:
    """A sound adapter of one matrix, 8 x 6."""
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 4}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file({_A: torch.randn(4, 6), _B: torch.randn(8, 4)}, folder / _WEIGHTS)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MemoryCheckpoint]:
    folder = tmp_path_factory.mktemp("small")
    _save(folder)
    values = {"h.0.x.weight": torch.ones(8, 6), "emb.weight": torch.ones(10, 6)}
    return folder, MemoryCheckpoint("base", values | {"ids": torch.arange(3)})


@pytest.mark.parametrize("case", _MALFORMED)
def test_malformed_adapters_are_refused(
    case: str, small: tuple[Path, MemoryCheckpoint], tmp_path: Path
) -> None:
    spoil, kind, words = _MALFORMED[case]
    folder, base = small
    adapter = tmp_path / "adapter"
    shutil.copytree(folder, adapter)
    AdaptedCheckpoint(base, adapter)
    spoil(adapter)
    with pytest.raises(kind, match=words) as caught:
        AdaptedCheckpoint(base, adapter)
    assert str(adapter) in str(caught.value)


@pytest.mark.parametrize("rows", [[0, 10], [1]])
def test_trained_tokens_must_fit(
    rows: list[int], small: tuple[Path, MemoryCheckpoint], tmp_path: Path
) -> None:
    folder, base = small
    adapter = tmp_path / "adapter"
    shutil.copytree(folder, adapter)
    _set(trainable_token_indices=rows)(adapter)
    _tensors({_TOKENS: torch.ones(2, 6)})(adapter)
    with pytest.raises(MismatchError, match="token"):
        AdaptedCheckpoint(base, adapter)


def test_quantised_base_is_refused(tmp_path: Path) -> None:
    _save(tmp_path)
    base = MemoryCheckpoint("base", {"h.0.x.weight": torch.ones(8, 6, dtype=torch.int8)})
    with pytest.raises(MismatchError, match="I8"):
        AdaptedCheckpoint(base, tmp_path)
