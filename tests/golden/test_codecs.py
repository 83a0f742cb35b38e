"""What archives hold is what the authors' code stores: signs, scales, factors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from cermet.engine.archive import read_archive
from cermet.maths.packing import unpack
from tests.golden.adapt import golden_folder, load
from tests.golden.by_codecs import archived, compeft_parameters, extracted


def _files(method: str) -> list[Path]:
    found = sorted(golden_folder().glob(f"{method}-*.safetensors"))
    assert found, method
    return found


def _every(method: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", _files(method), ids=lambda path: path.stem)


def _outputs(path: Path, group: str) -> dict[str, Tensor]:
    held = load_file(path)
    return {n.removeprefix(f"{group}/"): t for n, t in held.items() if n.startswith(f"{group}/")}


@_every("bitdelta")
def test_bitdelta_signs_and_scales(path: Path, tmp_path: Path) -> None:
    archive = archived(tmp_path, load(path), "bitdelta")
    parts, entries = load_file(archive / "delta.safetensors"), read_archive(archive).tensors
    for module, scale in _outputs(path, "coeff").items():
        name = f"{module}.weight"
        entry = entries[name]
        assert entry.numbers["scale"] == pytest.approx(float(scale), rel=1e-6)
        rows, columns = entry.shape
        ours = unpack(parts[f"signs/{name}"], 1, rows * columns).view(rows, columns)
        words = _outputs(path, "packed")[f"{module}.mask"].numpy().view(np.uint8)
        # 32 inputs in each word, lowest bit first; the words of an input run along the outputs
        bits = np.unpackbits(words.reshape(-1, rows, 4), axis=-1, bitorder="little")
        assert np.array_equal(ours.numpy(), bits.transpose(1, 0, 2).reshape(rows, columns))


@_every("compeft")
def test_compeft_signs_and_size(path: Path, tmp_path: Path) -> None:
    case = load(path)
    archive = archived(tmp_path, case, "compeft", **compeft_parameters(case.parameters))
    alpha = float(load_file(path)["alpha"])
    for entry in read_archive(archive).tensors.values():
        assert entry.numbers["size"] == pytest.approx(alpha, rel=2e-6)


@_every("lora_extract")
def test_lora_factors_and_configuration(path: Path, tmp_path: Path) -> None:
    case = load(path)
    archive = extracted(tmp_path, case)
    ours, theirs = load_file(archive / "adapter_model.safetensors"), _outputs(path, "out")
    assert {n: t.shape for n, t in ours.items()} == {n: t.shape for n, t in theirs.items()}
    for name, value in theirs.items():
        if "lora_" not in name:
            assert torch.equal(ours[name], value), name
    for name, delta in _outputs(path, "delta").items():
        module = f"base_model.model.{name.removesuffix('.weight')}"
        product = ours[f"{module}.lora_B.weight"] @ ours[f"{module}.lora_A.weight"]
        torch.testing.assert_close(product, delta, rtol=0, atol=1e-5)
        theirs_a = theirs[f"{module}.lora_A.weight"]
        sizes = ours[f"{module}.lora_A.weight"].norm(dim=1)
        torch.testing.assert_close(sizes, theirs_a.norm(dim=1), rtol=1e-4, atol=1e-5)
    config = json.loads((archive / "adapter_config.json").read_text("utf-8"))
    for key, value in case.parameters["adapter_config"].items():
        if key == "modules_to_save":
            value = sorted(value) or None
        if key != "task_type":  # these models have no config
            assert config[key] == value, key
