"""`cermet verify`, `cermet clean`, `cermet --version`: what they look at and how they end."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import cermet as package
from cermet import api
from tests.cli.commands import Cermet, ready
from tests.recipes.pools import llama, llama_config, save


@pytest.fixture
def out(cermet: Cermet, tmp_path: Path) -> Path:
    """A merge, in several shards."""
    assert cermet("merge", ready(tmp_path), tmp_path / "out", "--shard-size", "9KB").code == 0
    return tmp_path / "out"


def test_a_sound_folder(cermet: Cermet, out: Path) -> None:
    done = cermet("verify", out)
    assert (done.code, done.err) == (0, "")
    found = re.fullmatch(
        r"(\d+) tensors read, (\d+) made again from the recipe\.\n"
        r"Every digest agrees, every number is finite\.\n",
        done.out,
    )
    assert found is not None
    roles = {t["role"] for t in json.loads((out / "cermet.json").read_text())["tensors"].values()}
    assert int(found[1]) == len(llama())
    assert int(found[2]) >= max(len(roles), len(list(out.glob("*.safetensors"))))


def test_the_seed_chooses_what_is_made_again(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cermet.engine import verify

    made: list[str] = []
    real = verify.job_of

    def spy(task: object, *rest: object, **more: object) -> object:
        made.append(task.name)  # type: ignore[attr-defined]
        return real(task, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(verify, "job_of", spy)
    chosen = []
    for seed in (0, 0, 1, 2, 3):
        made.clear()
        assert api.verify(out, seed=seed).problems == []
        chosen.append(tuple(made))
    assert chosen[0] == chosen[1]
    assert len(set(chosen)) > 1


def test_a_changed_byte_is_found(cermet: Cermet, out: Path) -> None:
    file = sorted(out.glob("*.safetensors"))[1]
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    done = cermet("verify", out)
    assert done.code == 3
    problem, meaning, last = done.err.splitlines()
    assert meaning.startswith("The output is not what was written")
    assert re.fullmatch(
        rf"  tensor '\S+' in '{file.name}' has changed since it was written", problem
    )
    assert last == f"cermet: '{out}' has 1 problem(s), listed above."


def test_a_tensor_that_is_not_a_number_is_found(cermet: Cermet, out: Path) -> None:
    """Even where somebody has corrected the digest as well."""
    from cermet.core.fingerprint import digest_bytes, digest_hex

    record = json.loads((out / "cermet.json").read_text())
    file = out / record["tensors"]["model.norm.weight"]["shard"]
    values = {n: t.clone() for n, t in load_file(file).items()}
    values["model.norm.weight"][3] = float("inf")
    save_file(values, file)
    raw = values["model.norm.weight"].view(torch.uint8).numpy()
    digest = digest_hex(digest_bytes(raw, 0), raw.size)
    record["tensors"]["model.norm.weight"]["digest"] = digest
    (out / "cermet.json").write_text(json.dumps(record))
    assert "tensor 'model.norm.weight' holds NaN or infinity" in cermet("verify", out).err


def test_a_changed_source_is_found(cermet: Cermet, out: Path, tmp_path: Path) -> None:
    save(tmp_path / "b", llama(7), llama_config())
    done = cermet("verify", out)
    assert done.code == 3
    assert f"of '{tmp_path / 'b'}' has changed since the merge" in done.err


def test_a_source_that_is_gone_is_a_problem(cermet: Cermet, out: Path, tmp_path: Path) -> None:
    (tmp_path / "b").rename(tmp_path / "moved")
    done = cermet("verify", out)
    assert done.code == 3
    assert "nothing could be made again: There is no folder" in done.err.replace("recipe: ", "")


def test_what_cermet_did_not_write_is_refused(cermet: Cermet, tmp_path: Path) -> None:
    ready(tmp_path)
    done = cermet("verify", tmp_path / "a")
    assert done.code == 2
    assert "holds no cermet.json; it was not written by Cermet." in done.said


def test_clean_lists_then_removes(cermet: Cermet, tmp_path: Path) -> None:
    assert cermet("clean", tmp_path).out == f"Nothing was left over in '{tmp_path}'.\n"

    def stop(name: str, nbytes: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        api.merge(ready(tmp_path), tmp_path / "out", progress=stop)
    before = sorted(tmp_path.rglob("*"))
    listed = cermet("clean", tmp_path)
    assert listed.code == 0
    assert f"left over: {tmp_path}" in listed.out
    assert "--remove" in listed.out
    assert sorted(tmp_path.rglob("*")) == before
    removed = cermet("clean", tmp_path, "--remove")
    assert "removed: " in removed.out
    assert {p.name for p in tmp_path.iterdir()} == {"a", "b", "c", "recipe.yaml"}


def test_clean_of_nowhere_is_one_sentence(cermet: Cermet, tmp_path: Path) -> None:
    done = cermet("clean", tmp_path / "nowhere")
    assert done.code == 2
    assert "There is no folder" in done.said


def test_the_version(cermet: Cermet) -> None:
    done = cermet("--version")
    assert (done.code, done.out) == (0, f"cermet {package.__version__}\n")


def test_help_names_every_verb(cermet: Cermet) -> None:
    done = cermet("--help")
    assert done.code == 0
    for verb in ("merge", "plan", "methods", "verify", "clean", "demo"):
        assert re.search(rf"^  {verb} +\w", done.out, re.MULTILINE)
        assert cermet(verb, "--help").code == 0
