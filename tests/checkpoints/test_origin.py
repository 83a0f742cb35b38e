"""Where a model comes from is told by the hub's cache, by its client's notes, or by the model."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cermet.checkpoints.front_matter import FrontMatter
from cermet.checkpoints.origin import Origin, hub_sha256, origin_of, recorded_origins

COMMIT, SHA256 = "c" * 40, "5" * 64


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    """A snapshot in the form of the hub's cache."""
    repository = tmp_path / "hub" / "models--org--name"
    folder = repository / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for name, blob in (("model.safetensors", SHA256), ("config.json", "a" * 40)):
        (repository / "blobs" / blob).write_text("{}")
        (folder / name).symlink_to(Path("..", "..", "blobs", blob))
    return folder


def test_a_snapshot_tells_its_name_and_commit(snapshot: Path) -> None:
    for name in ("org/name", str(snapshot)):
        found = origin_of(name, "model", snapshot)
        assert (found.repository, found.revision) == ("org/name", COMMIT)
        assert found.links == ("org/name",)


def test_a_blob_of_lfs_is_named_by_its_hash(snapshot: Path) -> None:
    assert hub_sha256(snapshot / "model.safetensors") == SHA256
    assert hub_sha256(snapshot / "config.json") is None  # a hash of git's, which is another


def _downloaded(folder: Path, stamp: float, etag: str = SHA256) -> Path:
    """A folder as `hf download --local-dir` leaves it."""
    notes = folder / ".cache" / "huggingface" / "download"
    notes.mkdir(parents=True)
    (folder / "model.safetensors").write_text("x")
    (notes / "model.safetensors.metadata").write_text(f"{COMMIT}\n{etag}\n{stamp}\n")
    return folder / "model.safetensors"


def test_a_download_into_a_folder_tells_commit_and_hash(tmp_path: Path) -> None:
    file = _downloaded(tmp_path, 2e10)
    found = origin_of(str(tmp_path), "model", tmp_path)
    assert (found.repository, found.revision, found.links) == (None, COMMIT, ())
    assert hub_sha256(file) == SHA256


@pytest.mark.parametrize(("stamp", "etag"), [(5.0, SHA256), (2e10, "e" * 40)])
def test_a_file_that_has_changed_since_has_no_hash(stamp: float, etag: str, tmp_path: Path) -> None:
    assert hub_sha256(_downloaded(tmp_path, stamp, etag)) is None


@pytest.mark.parametrize("notes", [b"", b"\xff\n\xff\n\xff", b"a\nb\nc\n"])
def test_notes_of_another_form_tell_nothing(notes: bytes, tmp_path: Path) -> None:
    file = _downloaded(tmp_path, 2e10)
    (tmp_path / ".cache/huggingface/download/model.safetensors.metadata").write_bytes(notes)
    assert hub_sha256(file) is None
    assert origin_of(str(tmp_path), "model", tmp_path).revision is None


def test_a_name_that_the_hub_has_given(tmp_path: Path) -> None:
    assert origin_of("org/name", "model", tmp_path).repository == "org/name"


def test_a_folder_is_no_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    found = origin_of("org/name", "model", Path("org/name"))
    assert (found.repository, found.links) == (None, ())


@pytest.mark.parametrize("value", ["/home/me/secret", "./base", "base", 3, None, "a/b/c"])
def test_paths_in_a_config_are_no_repositories(value: object, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"_name_or_path": value}))
    assert origin_of(str(tmp_path), "model", tmp_path).links == ()


def test_a_folder_tells_what_it_was_tuned_from(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"_name_or_path": "org/parent"}))
    assert origin_of(str(tmp_path), "model", tmp_path).links == ("org/parent",)
    (tmp_path / "README.md").write_text("---\nbase_model: org/stated\n---\n")
    assert origin_of(str(tmp_path), "model", tmp_path).links == ("org/stated",)


@pytest.mark.parametrize("text", ["{", "[]", ""])
def test_a_damaged_config_is_for_others_to_refuse(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    assert origin_of(str(tmp_path), "model", tmp_path).links == ()


def test_a_record_gives_origins_back(tmp_path: Path) -> None:
    card = FrontMatter(license=("other",), license_name="x", license_link="LICENSE", tags=("t",))
    origin = Origin("m", "adapter", "org/m", COMMIT, ("org/p",), card)
    (found,) = recorded_origins([json.loads(json.dumps(origin.record()))], FrontMatter(tags=("t",)))
    assert found.record() == origin.record()
    assert found.card == card


def test_links_that_lead_nowhere_tell_nothing(tmp_path: Path) -> None:
    os.symlink("nowhere", tmp_path / "model.safetensors")
    assert hub_sha256(tmp_path / "model.safetensors") is None
