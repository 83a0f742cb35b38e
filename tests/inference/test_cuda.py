"""Where there is a GPU: the numbers of the CPU, the same ones each time, on the CPU in the end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import Tensor

from cermet.inference import generation, likelihood, vectors
from cermet.inference.loading import Kind
from cermet.inference.network import Network
from tests.evaluate.models import BEGIN, END, byte_ids, save_bert, save_llama, save_vit, texts

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

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


@pytest.mark.parametrize(
    ("save", "kind", "run"),
    [
        (save_llama, "causal", _surprise),
        (save_bert, "encoder", _vectors),
        (save_vit, "encoder", _images),
    ],
)
def test_numbers_are_those_of_the_cpu(
    save: Callable[[Path], Path], kind: Kind, run: Callable[[Network], Tensor], tmp_path: Path
) -> None:
    here, there = (Network(save(tmp_path), kind, device) for device in ("cpu", "cuda"))
    wanted, found = run(here), run(there)
    assert (found.device.type, found.dtype) == ("cpu", wanted.dtype)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert run(there).equal(found)
    there.load(tmp_path)
    assert run(there).equal(found)


def test_what_is_written_is_that_of_the_cpu(tmp_path: Path) -> None:
    prompts = [[BEGIN, *row[:20]] for row in _TEXTS]
    save_llama(tmp_path)
    here, there = (
        generation.greedy(Network(tmp_path, "causal", device), prompts, [END], 11, lambda new: None)
        for device in ("cpu", "cuda")
    )
    assert there == here
