"""Where a model is: here, or on the hub, whose every failure is one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from cermet.checkpoints.hub import locate
from cermet.core.errors import InputError


class _Hub:
    """Stands for `snapshot_download`; writes down what it is asked for."""

    def __init__(self, folder: Path, files: dict[str, str]) -> None:
        self.folder, self.files = folder, files
        self.asked: list[tuple[str, Any, list[str]]] = []

    def __call__(self, name: str, *, revision: Any, allow_patterns: list[str], **_: Any) -> str:
        self.asked.append((name, revision, allow_patterns))
        self.folder.mkdir(exist_ok=True)
        for file, text in self.files.items():
            if any(Path(file).match(pattern) for pattern in allow_patterns):
                (self.folder / file).write_text(text)
        return str(self.folder)


def _hub(monkeypatch: pytest.MonkeyPatch, folder: Path, *files: str) -> _Hub:
    hub = _Hub(folder, dict.fromkeys(files, ""))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub)
    return hub


def test_a_folder_and_a_file_are_where_they_are(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(b"")
    assert locate(str(tmp_path)) == tmp_path
    assert locate(str(file)) == file


def test_a_folder_goes_before_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub = _hub(monkeypatch, tmp_path / "hub")
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert locate("org/name") == Path("org/name")
    monkeypatch.chdir(tmp_path / "org")
    assert locate("org/name", root=tmp_path) == tmp_path / "org" / "name"
    assert hub.asked == []


def test_weights_are_fetched_as_safetensors(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub = _hub(monkeypatch, tmp_path / "hub", "model.safetensors", "pytorch_model.bin", "x.py")
    found = locate("org/name", "v2")
    assert {p.name for p in found.iterdir()} == {"model.safetensors"}
    assert [(name, revision) for name, revision, _ in hub.asked] == [("org/name", "v2")]


def test_pytorch_files_are_fetched_where_there_is_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub = _hub(monkeypatch, tmp_path / "hub", "config.json", "pytorch_model.bin", "model.py")
    assert {p.name for p in locate("org/name").iterdir()} == {"config.json", "pytorch_model.bin"}
    assert len(hub.asked) == 2


@pytest.mark.parametrize(
    "name", ["nowhere", "./nowhere", "/nowhere/at/all", "a/b/c", "~/nowhere/x"]
)
def test_a_path_is_never_looked_for_on_the_hub(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub = _hub(monkeypatch, tmp_path / "hub")
    with pytest.raises(InputError, match="There is no folder"):
        locate(name)
    assert hub.asked == []


def test_a_folder_has_no_revision(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a local folder, so '@main' has no meaning"):
        locate(str(tmp_path), "main")


@pytest.mark.parametrize("error", [OSError("no\nnetwork"), ValueError("odd"), KeyError("x")])
def test_every_failure_is_one_sentence(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(InputError) as caught:
        locate("org/name")
    message = str(caught.value)
    assert message.startswith("There is no folder 'org/name' here, and it could not be fetched")
    assert type(error).__name__ in message
    assert "\n" not in message


def test_offline_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The real client, told that there is no network, with an empty cache."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="Check the name, or the network, or download it first"):
        locate("org/name")
