"""Names of devices: what is none, and what is not here."""

from __future__ import annotations

import pytest
import torch

from cermet.core.device import check_device
from cermet.core.errors import InputError, MachineError


def _machine(monkeypatch: pytest.MonkeyPatch, cards: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cards > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)


@pytest.mark.parametrize(
    "name", ["tpu", "", "cpu:0", "cuda:", "cuda:-1", "cuda:01", "cuda:a", "cuda:0:1", "CUDA", "cud"]
)
def test_what_is_no_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _machine(monkeypatch, 2)
    with pytest.raises(InputError, match=rf"'{name}' is not a device: cpu, cuda or cuda:0\."):
        check_device(name)


@pytest.mark.parametrize(
    ("cards", "name", "said"),
    [
        (0, "cuda", "'cuda': there is no CUDA device here, or this torch was built without"),
        (0, "cuda:1", "'cuda:1': there is no CUDA device here"),
        (1, "cuda:1", r"'cuda:1' is not here: this machine has cuda:0\."),
        (2, "cuda:9", r"'cuda:9' is not here: this machine has cuda:0 to cuda:1\."),
    ],
)
def test_what_is_not_here(
    cards: int, name: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _machine(monkeypatch, cards)
    with pytest.raises(MachineError, match=said):
        check_device(name)


def test_what_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    _machine(monkeypatch, 0)
    check_device("cpu")
    _machine(monkeypatch, 2)
    for name in ("cpu", "cuda", "cuda:0", "cuda:1"):
        check_device(name)
