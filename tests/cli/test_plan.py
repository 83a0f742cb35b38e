"""`cermet plan`: what a merge would do, for people and for programs; nothing is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cermet.maths.native.compiled import kernels
from tests.cli.commands import TEXT, Cermet, ready
from tests.recipes.pools import llama

_BYTES = sum(t.nbytes for t in llama().values())


def test_json_tells_a_program_everything(cermet: Cermet, tmp_path: Path) -> None:
    recipe = ready(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    done = cermet("plan", recipe, "--json", "--memory", "100MB", "--threads", "2")
    assert (done.code, done.err) == (0, "")
    found = json.loads(done.out)
    assert found["method"] == "ties"
    models = [(m["name"], m["tensors"], m["bytes"], m["files"]) for m in found["models"]]
    assert models == [(str(tmp_path / n), len(llama()), _BYTES, 1) for n in "bca"]
    assert found["bytes_written"] == _BYTES
    assert found["bytes_read"] == 3 * found["passes"] * _BYTES
    assert [f["file"] for f in found["files"]] == ["model.safetensors"]
    assert found["files"][0]["bytes"] > _BYTES
    assert 0 < found["memory"] <= found["memory_budget"] == 100_000_000
    assert found["threads"] == 2
    assert found["disk_free"] > 0
    assert found["seconds"] > 0
    assert found["warnings"] == []
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(kernels() is None, reason="no C compiler here, or no AVX2")
def test_time_grows_with_the_work(
    cermet: Cermet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With passes and with masks that are drawn, not with threads; without kernels torch starts."""
    recipe = ready(tmp_path)
    text = recipe.read_text().replace("0.9", "0.7")

    def seconds(method: str, threads: int = 1) -> float:
        own = text if "ties" in method or method == "della" else text.replace("density", "weight")
        recipe.write_text(own.replace("merge_method: ties", f"merge_method: {method}"))
        done = cermet("plan", recipe, "--json", "--threads", str(threads))
        assert done.code == 0, done.err
        return float(json.loads(done.out)["seconds"])

    told = [seconds(method) for method in ("task_arithmetic", "ties", "dare_ties", "della")]
    assert told == sorted(told)
    assert len(set(told)) == len(told)
    assert seconds("della", threads=2) < told[-1]
    monkeypatch.setenv("CERMET_NATIVE", "0")
    assert seconds("ties") > told[1] + 1


def test_groups_have_one_method_and_one_set_of_numbers(cermet: Cermet, tmp_path: Path) -> None:
    found = json.loads(cermet("plan", ready(tmp_path), "--json").out)
    groups = {
        g["parameters"].partition("density=")[2].partition(",")[0]: g for g in found["groups"]
    }
    assert set(groups) == {"0.5", "0.9"}
    assert all("mlp" in name for name in groups["0.5"]["names"])
    assert (groups["0.5"]["tensors"], groups["0.5"]["layers"]) == (6, "0-1")
    assert groups["0.5"]["roles"] == "down gate up"
    names = [name for group in found["groups"] for name in group["names"]]
    assert sorted(names) == sorted(llama())
    assert {g["method"] for g in found["groups"]} == {"ties"}


def test_an_experimental_method_is_one_by_a_warning(cermet: Cermet, tmp_path: Path) -> None:
    recipe = ready(tmp_path)
    text = recipe.read_text().replace("merge_method: ties", "merge_method: ties_sv")
    recipe.write_text(text.partition("parameters:\n")[0].replace("weight: 0.5", "slack: 0.1"))
    done = cermet("plan", recipe)
    assert done.code == 0
    assert "warning: 'ties_sv' is experimental: the inequality of the paper" in done.out
    (warning,) = json.loads(cermet("plan", recipe, "--json").out)["warnings"]
    assert warning.startswith("'ties_sv' is experimental: ")
    assert "warning: 'ties_sv' is experimental" in cermet("merge", recipe, tmp_path / "out").err


def test_the_plan_lists_statistics_beside_the_models(cermet: Cermet, tmp_path: Path) -> None:
    recipe = ready(tmp_path)
    text = TEXT.partition("parameters:\n")[0].replace("ties", "led_merging")
    text += f"needs: {{score: {tmp_path}/b, base_score: {tmp_path}/c}}\n"
    recipe.write_text(text.replace("$", f"{tmp_path}/"))
    found = json.loads(cermet("plan", recipe, "--json").out)
    assert [s["name"] for s in found["statistics"]] == [f"{tmp_path}/b", f"{tmp_path}/c"]
    assert found["bytes_read"] == 7 * 2 * _BYTES
    assert len(found["models"]) == 3


def test_shards_are_planned(cermet: Cermet, tmp_path: Path) -> None:
    found = json.loads(cermet("plan", ready(tmp_path), "--json", "--shard-size", "9KB").out)
    names = [f["file"] for f in found["files"]]
    assert len(names) > 2
    assert names[0] == f"model-00001-of-{len(names):05d}.safetensors"


def test_people_get_tables(cermet: Cermet, tmp_path: Path) -> None:
    done = cermet("plan", ready(tmp_path), tmp_path / "out")
    assert done.code == 0
    for words in (
        str(tmp_path / "a"),
        "6 down gate up",
        "0-1",
        "density=0.5",
        " kB in up to",
        " kB in 1 file(s) of",
        "B free",
        "memory  ",
        "(budget 1.0 GB)",
        "time    about",
    ):
        assert words in done.out
    assert not (tmp_path / "out").exists()


def test_copies_are_shown_as_copies(cermet: Cermet, tmp_path: Path) -> None:
    text = "merge_method: passthrough\nmodels: [{model: $a}]\n"
    found = json.loads(cermet("plan", ready(tmp_path, text), "--json").out)
    assert [(g["method"], g["passes"]) for g in found["groups"]] == [("copy", 1)]


def test_warnings_are_shown(cermet: Cermet, tmp_path: Path) -> None:
    recipe = ready(tmp_path, TEXT + "name: mine\n")
    done = cermet("plan", recipe, "--mergekit-compat")
    assert done.code == 0
    assert f"warning: {recipe}:9: 'name' is ignored." in done.out.replace("\n", "")


def test_errors_are_found_here(cermet: Cermet, tmp_path: Path) -> None:
    wrong = cermet("plan", ready(tmp_path, TEXT.replace("density", "densty")))
    assert (wrong.code, wrong.out) == (2, "")
    assert "Did you mean 'density'?" in wrong.said
    small = cermet("plan", ready(tmp_path), "--memory", "10", "--threads", "1")
    assert small.code == 4
    assert "but the budget is" in small.said
