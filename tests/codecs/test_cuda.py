"""Codecs on a GPU: archives of the same size, which restore to what those of the CPU do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import cermet
from cermet.core.codec import all_codecs
from tests.codecs.pools import PARAMETERS, pair, save, weights
from tests.devices import on_devices

_BY_TRIPLETS = ["delta_come", "graftllm"]
_SMALL = [n for n, t in weights(0).items() if n.endswith("proj.weight") and t.numel() < 10_000]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Long tensors too."""
    return pair(tmp_path_factory.mktemp("pool"))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("small")
    models = [{name: weights(seed)[name] for name in _SMALL} for seed in (0, 1)]
    return save(root / "base", models[0]), save(root / "expert", models[1])


def _restored(archive: Path) -> Mapping[str, Tensor]:
    out = archive.with_name(f"{archive.name}-restored")
    cermet.restore(archive, out)
    return cermet.open(out)


def _compared(
    models: tuple[Path, Path], folder: Path, codec: str, device: str, **given: Any
) -> None:
    """Both archives are of one size, both restored models as near to the expert, and alike."""
    known = {**PARAMETERS[codec], **given}
    here = cermet.compress(*models, folder / "here", codec=codec, **known)
    away = cermet.compress(*models, folder / "there", codec=codec, device=device, **known)
    sizes = [
        sum(file.stat().st_size for file in (folder / name).glob("*.safetensors"))
        for name in ("here", "there")
    ]
    assert sizes[1] == pytest.approx(sizes[0], rel=0 if all_codecs()[codec].size else 1e-3)
    assert away.error == pytest.approx(here.error, rel=1e-3)
    own, start = cermet.open(models[1]), cermet.open(models[0])
    one, two = _restored(folder / "here"), _restored(folder / "there")
    for name, wanted in one.items():
        change = (own[name].double() - start[name].double()).norm()
        off = (two[name].double() - wanted.double()).norm()
        assert float(off) <= 1e-2 * float(change), name
    record = json.loads((folder / "there" / "cermet.json").read_text("utf-8"))
    assert record["run"]["device"] == device
    assert ("gpu" in record["machine"]) == (device != "cpu")


@on_devices(sorted(PARAMETERS), ["bitdelta"])
def test_every_codec(device: str, case: str, pool: tuple[Path, Path], tmp_path: Path) -> None:
    _compared(pool, tmp_path, case, device, seed=5)


@on_devices(_BY_TRIPLETS, _BY_TRIPLETS[:1])
def test_with_statistics(device: str, case: str, small: tuple[Path, Path], tmp_path: Path) -> None:
    """GPTQ on a Gram matrix, and triplets that were found before."""
    own, grams, factors = torch.Generator().manual_seed(3), {}, {}
    for name in _SMALL:
        delta = weights(1)[name] - weights(0)[name]
        inputs = torch.randn(3 * delta.shape[1], delta.shape[1], generator=own)
        grams[name] = inputs.t() @ inputs
        u, s, v = torch.linalg.svd(delta, full_matrices=False)
        factors |= {f"{name}.u": u.contiguous(), f"{name}.s": s, f"{name}.v": v.t().contiguous()}
    needs = {"gram": tmp_path / "gram.safetensors", "factors": tmp_path / "factors.safetensors"}
    save_file(grams, needs["gram"])
    save_file(factors, needs["factors"])
    _compared(small, tmp_path, case, device, needs=needs)


@on_devices(["pruned", "compeft", "int8", "lora"], ["pruned"])
def test_a_number_that_is_none(
    device: str, case: str, small: tuple[Path, Path], tmp_path: Path
) -> None:
    """It is named, by a search for a rank too, which it would keep from ending."""
    tensors = {name: weights(1)[name] for name in _SMALL}
    tensors[_SMALL[0]].fill_(float("nan"))
    broken = save(tmp_path / "broken", tensors)
    dense = {"density": 0.999} if case in ("pruned", "compeft") else {}
    with pytest.raises(cermet.NonFiniteError, match=rf"'{_SMALL[0]}' of model '{broken}'"):
        cermet.compress(small[0], broken, tmp_path / "d", codec=case, device=device, **dense)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken"]
