"""Numbers of a GPU: those of the CPU but for rounding, the same each time, and then on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor

from cermet.inference import likelihood, vectors
from cermet.inference.loading import Kind
from cermet.inference.network import Network
from tests.devices import on_devices
from tests.evaluate.models import BEGIN, byte_ids, save_bert, save_llama, save_vit, texts

_TEXTS = [byte_ids(text) for text in texts(40, most=90)]


def _surprise(network: Network) -> Tensor:
    asked = [w for i, r in enumerate(_TEXTS) for w in likelihood.windows(i, r, BEGIN, 32)]
    with mock.patch.object(likelihood, "_TOKENS", 200):
        return likelihood.surprise(network, asked, len(_TEXTS), lambda new: None)


def _vectors(network: Network) -> Tensor:
    with mock.patch.object(vectors, "_TOKENS", 200):
        return vectors.text_vectors(network, [r[:60] for r in _TEXTS], lambda new: None)


def _images(network: Network) -> Tensor:
    pixels = torch.randint(256, (150, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    return vectors.image_vectors(network, pixels.to(torch.uint8), lambda new: None)


_RUNS: dict[str, tuple[Callable[[Path], Path], Kind, Callable[[Network], Tensor]]] = {
    "likelihoods": (save_llama, "causal", _surprise),
    "texts": (save_bert, "encoder", _vectors),
    "images": (save_vit, "encoder", _images),
}


@on_devices(_RUNS, ["likelihoods"])
def test_numbers_are_those_of_the_cpu(device: str, case: str, tmp_path: Path) -> None:
    save, kind, run = _RUNS[case]
    here, there = (Network(save(tmp_path), kind, where) for where in ("cpu", device))
    wanted, found = run(here), run(there)
    assert (found.device.type, found.dtype) == ("cpu", wanted.dtype)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert run(there).equal(found)
    there.load(tmp_path)
    assert run(there).equal(found)
