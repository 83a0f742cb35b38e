"""--device, whatever the verb: one sentence and its exit code, before anything is made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.cli.commands import Cermet, ready
from tests.evaluate import models
from tests.proving.pools import write_quick_pool


def _merge(root: Path) -> list[str]:
    return ["merge", str(ready(root / "r")), str(root / "out")]


def _bench(root: Path) -> list[str]:
    return ["bench", str(write_quick_pool(root / "p")), "--out", str(root / "out")]


def _compress(root: Path) -> list[str]:
    ready(root / "r")
    models = [str(root / "r" / name) for name in "ab"]
    return ["compress", *models, "--out", str(root / "out"), "--codec", "bitdelta"]


def _evaluate(root: Path) -> list[str]:
    models.save_llama(root / "p" / "base")
    models.write_pool(root / "p", {"bits": "likelihood"})
    return ["evaluate", "base", "--pool", str(root / "p"), "--out", str(root / "out")]


def _harness(root: Path) -> list[str]:
    return [*_evaluate(root)[:4], "--lm-eval", "bits"]


@pytest.mark.parametrize("verb", [_merge, _compress, _bench, _evaluate, _harness])
def test_a_device_that_is_not_here(
    verb: Callable[[Path], list[str]],
    tmp_path: Path,
    cermet: Cermet,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = verb(tmp_path)
    for cards, device, code, said in (
        (0, "tpu", 2, "'tpu' is not a device: cpu, cuda or cuda:0."),
        (0, "cuda", 4, "Device 'cuda': there is no CUDA device here"),
        (1, "cuda:9", 4, "Device 'cuda:9' is not here: this machine has cuda:0."),
    ):
        monkeypatch.setattr(torch.cuda, "is_available", lambda cards=cards: cards > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda cards=cards: cards)
        done = cermet(*command, "--device", device)
        assert (done.code, said in done.said) == (code, True), done.err
        assert not (tmp_path / "out").exists()


def test_a_verb_that_works_on_the_cpu_alone(tmp_path: Path, cermet: Cermet) -> None:
    ready(tmp_path / "r")
    done = cermet("restore", tmp_path / "r" / "a", tmp_path / "out", "--device", "cuda:9")
    assert (done.code, "No such option: --device" in done.err) == (2, True)
