"""Codecs of whole matrices on a simulated GPU: the archive that the CPU writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import cermet
from cermet.core.codec import all_codecs
from tests.codecs.pools import PARAMETERS, SHAPES, pair
from tests.gpu import Simulated
from tests.methods.forms import same_bits

WHOLE = [name for name, codec in all_codecs().items() if codec.grain == "tensor"]


def _statistics(folder: Path) -> dict[str, Path]:
    """Gram matrices and triplets of every matrix, as files."""
    own = torch.Generator().manual_seed(3)
    grams, factors = {}, {}
    for name, shape in SHAPES.items():
        if len(shape) == 2 and min(shape):
            inputs = torch.randn(2 * shape[1], shape[1], generator=own)
            grams[name] = inputs.t() @ inputs
            u, s, v = torch.linalg.svd(torch.randn(shape, generator=own), full_matrices=False)
            found = {"u": u, "s": s, "v": v.t()}
            factors |= {f"{name}.{end}": x.contiguous() for end, x in found.items()}
    save_file(grams, folder / "gram.safetensors")
    save_file(factors, folder / "factors.safetensors")
    return {name: folder / f"{name}.safetensors" for name in ("gram", "factors")}


@pytest.mark.parametrize("codec", sorted(WHOLE))
@pytest.mark.parametrize("known", [False, True], ids=["plain", "with statistics"])
def test_the_archive_of_the_cpu(
    codec: str, known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, files = pair(tmp_path), _statistics(tmp_path)
    extras = [extra.name for extra in all_codecs()[codec].extras]
    given: dict[str, Any] = {"codec": codec, "threads": 1, **PARAMETERS[codec]}
    given["needs"] = {name: files[name] for name in extras} if known else {}
    cermet.compress(*pool, tmp_path / "here", **given)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "simulated")
    with Simulated():
        cermet.compress(*pool, tmp_path / "there", device="cuda", **given)
    stem = "adapter_model" if codec == "lora" else "delta"
    found, expected = (load_file(tmp_path / f / f"{stem}.safetensors") for f in ("there", "here"))
    assert same_bits(found, expected)


def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(cermet.InputError, match="'tpu' is not a device"):
        cermet.compress("a", "b", tmp_path / "out", codec="int8", device="tpu")
