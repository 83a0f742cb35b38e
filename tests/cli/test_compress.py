"""`cermet compress`, `cermet codecs`, and `cermet restore` of an archive, with what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import cermet as package
from cermet.core.codec import all_codecs
from tests.cli.commands import Cermet
from tests.codecs.pools import pair, save, weights


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return pair(tmp_path_factory.mktemp("pool"), torch.bfloat16)


@pytest.fixture
def archive(pool: tuple[Path, Path], tmp_path: Path) -> Path:
    package.compress(*pool, tmp_path / "delta", codec="bitdelta")
    return tmp_path / "delta"


def test_there_and_back(cermet: Cermet, pool: tuple[Path, Path], tmp_path: Path) -> None:
    delta, options = tmp_path / "delta", ("--codec", "delta-come", "--group", "32", "--at-3=8")
    done = cermet("compress", "--bits", "2", *pool, "-o", delta, *options)
    assert (done.code, done.err) == (0, "")
    assert "bits a weight" in done.out
    assert f"cermet restore {delta} OUT --base {pool[0]}" in done.out
    manifest = json.loads((delta / "delta.json").read_text("utf-8"))
    assert manifest["parameters"]["bits"] == 2.0
    assert manifest["parameters"]["at_3"] == 8
    assert cermet("verify", delta).code == 0
    forms: list[tuple[Any, ...]] = [
        (delta, tmp_path / "1"),
        (delta, tmp_path / "2", "--base", pool[0]),
        (pool[0], delta, tmp_path / "3"),
    ]
    found = []
    for form in forms:
        assert cermet("restore", *form).code == 0
        out = next(p for p in form if str(p).startswith(str(tmp_path)) and p != delta)
        found.append((out / "model.safetensors").read_bytes())
        assert {"config.json", "tokenizer.json", "README.md"} <= {p.name for p in out.iterdir()}
    assert found[0] == found[1] == found[2]
    assert cermet("verify", tmp_path / "1").code == 0


def test_the_report_for_programs(cermet: Cermet, pool: tuple[Path, Path], tmp_path: Path) -> None:
    given = (*pool, "-o", tmp_path / "delta", "--codec", "compeft", "--density", "0.05", "--json")
    found = json.loads(cermet("compress", *given).out)
    assert found["parameters"] == {"density": 0.05, "alpha": 1.0, "magnitude": "deviation"}
    assert found["bound"] == pytest.approx(0.336, abs=1e-2)  # with ties
    assert {row["name"] for row in found["layers"]} >= {"before", "model.layers.0", "after"}
    assert 8 * found["bytes"] / found["weights"] == found["bits_per_weight"]


def test_codecs_are_listed_and_explained(cermet: Cermet) -> None:
    listed = cermet("codecs").out
    assert all(name in listed for name in all_codecs())
    described = {row["name"]: row for row in json.loads(cermet("codecs", "--json").out)}
    assert described["delta_come"]["statistics"][0]["name"] == "gram"
    explained = cermet("codecs", "delta-come").out
    assert "--needs gram=FILE" in explained
    assert "damping           float; default 0.01" in explained
    assert json.loads(cermet("codecs", "int8", "--json").out)["parameters"][0]["default"] == 128


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--codec", "bitdelt"), "There is no codec 'bitdelt'. Did you mean 'bitdelta'?"),
        (("--codec", "int8", "--groop", "8"), "takes no 'groop' (it takes group). Did you mean"),
        (("--codec", "int8", "--group", "9"), "group must be a power of two, not 9"),
        (("--codec", "int8", "--group", "4"), "'group' must be at least 8"),
        (("--codec", "int8", "--group", "big"), "'group' takes a whole number, not 'big'"),
        (("--codec", "int8", "--group"), "'--group' has no value"),
        (("--codec", "int8", "--group", "8", "--group=16"), "'--group' is given twice"),
        (("--codec", "int8", "--rest", "both"), "'both' is not what becomes of the rest"),
        (("--codec", "int8", "--needs", "gram=x"), "'int8' uses no statistics"),
        (("--codec", "delta-come", "--needs", "gram"), "write NAME=FILE"),
        (("--codec", "delta-come", "--needs", "gram=none"), "'none' is neither a folder nor"),
        (("--codec", "delta-come", "--bits", "1", "--at-2", "3"), "at_2 cannot be given too"),
        (("--codec", "int8", "third"), "Name a base and an expert"),
        (("--codec", "int8", "-x"), "There is no option '-x'"),
        (("--codec", "int8", "--memory", "much"), "'much' is not a size"),
        (("--codec", "int8", "--device", "tpu"), "'tpu' is not a device"),
    ],
)
def test_wrong_options(
    cermet: Cermet, pool: tuple[Path, Path], tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    done = cermet("compress", *pool, "-o", tmp_path / "delta", *options)
    assert done.code == 2
    assert said in done.said
    assert list(tmp_path.iterdir()) == []


def test_a_budget_that_is_too_small(
    cermet: Cermet, pool: tuple[Path, Path], tmp_path: Path
) -> None:
    given = (*pool, "-o", tmp_path / "delta", "--codec", "tsv-compress", "--memory", "10MB")
    done = cermet("compress", *given)
    assert (done.code, "up_proj.weight' needs 26 MB at once" in done.said) == (4, True)


def test_a_gpu_that_is_full(
    cermet: Cermet, pool: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a codec asks for more, the tensor is named; elsewhere one line says what to do."""

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    given = (*pool, "-o", tmp_path / "delta", "--codec", "int8")
    monkeypatch.setattr("cermet.engine.encode.call", full)
    done = cermet("compress", *given)
    assert (done.code, "'int8' failed on tensor '" in done.said) == (4, True)
    monkeypatch.setattr("cermet.compression.encode", full)
    done = cermet("compress", *given)
    assert (done.code, "not enough memory on the GPU" in done.said) == (4, True)
    assert list(tmp_path.iterdir()) == []


def _other(tmp_path: Path, change: str) -> tuple[Path, Path]:
    """A base and an expert that do not fit together."""
    base, expert = weights(0), weights(1)
    name = "model.layers.0.self_attn.k_proj.weight"
    if change == "missing":
        del expert[name]
    elif change == "extra":
        expert["model.layers.2.more.weight"] = torch.ones(2, 2)
    elif change == "shape":
        expert[name] = torch.ones(9, 24)
    elif change == "vocabulary":
        expert["lm_head.weight"] = torch.ones(38, 24)
    elif change == "dtype":
        base[name] = base[name].to(torch.int8)
    return save(tmp_path / "base", base), save(tmp_path / "expert", expert)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("missing", "has no tensor 'model.layers.0.self_attn.k_proj.weight', which"),
        ("extra", "Tensor 'model.layers.2.more.weight' of '"),
        ("shape", "k_proj.weight' is [9, 24] in '"),
        ("vocabulary", "Their vocabularies differ."),
        ("dtype", "k_proj.weight' is I8 in '"),
    ],
)
def test_models_that_do_not_fit(cermet: Cermet, tmp_path: Path, change: str, said: str) -> None:
    given = (*_other(tmp_path, change), "-o", tmp_path / "delta", "--codec", "int8")
    done = cermet("compress", *given)
    assert done.code == 3
    assert said in done.said
    assert not (tmp_path / "delta").exists()


def test_a_tied_head_may_be_stored_or_not(tmp_path: Path) -> None:
    base, expert = weights(0), weights(1)
    base["lm_head.weight"] = base["model.embed_tokens.weight"].clone()
    del expert["lm_head.weight"]
    models = (
        save(tmp_path / "base", base, tie_word_embeddings=True),
        save(tmp_path / "expert", expert, tie_word_embeddings=True),
    )
    package.compress(*models, tmp_path / "delta", codec="int8")
    package.restore(tmp_path / "delta", tmp_path / "out")
    assert "lm_head.weight" not in package.open(tmp_path / "out")
    package.compress(*reversed(models), tmp_path / "back", codec="int8")
    package.restore(tmp_path / "back", tmp_path / "out2")
    assert "lm_head.weight" in package.open(tmp_path / "out2")


def test_statistics_that_do_not_fit(
    cermet: Cermet, pool: tuple[Path, Path], tmp_path: Path
) -> None:
    grams = {n: torch.eye(t.shape[1]) for n, t in package.open(pool[1]).items() if t.ndim == 2}
    given = (*pool, "-o", tmp_path / "delta", "--codec", "delta-come", "--needs")
    name = "model.layers.0.self_attn.q_proj.weight"
    path = tmp_path / "gram.safetensors"
    for change, said in (
        ({}, f"holds no '{name}'"),
        ({name: torch.eye(5)}, f"Tensor '{name}': its Gram matrix is [5, 5], not [24, 24]."),
    ):
        save_file({n: g for n, g in grams.items() if n != name} | change, path)
        done = cermet("compress", *given, f"gram={path}")
        assert done.code == 3
        assert said in done.said


# -- archives ------------------------------------------------------------------


def test_another_base_is_refused(
    cermet: Cermet, pool: tuple[Path, Path], archive: Path, tmp_path: Path
) -> None:
    done = cermet("restore", archive, tmp_path / "out", "--base", pool[1])
    assert done.code == 3
    assert "is not the base that" in done.said
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))
    smaller = save(tmp_path / "smaller", {"model.norm.weight": torch.ones(24)})
    done = cermet("restore", smaller, archive, tmp_path / "out")
    assert (done.code, "is not the base of" in done.said) == (3, True)


def test_the_base_may_have_moved(cermet: Cermet, pool: tuple[Path, Path], tmp_path: Path) -> None:
    base = shutil.copytree(pool[0], tmp_path / "base")
    package.compress(base, pool[1], tmp_path / "delta", codec="int4")
    base.rename(tmp_path / "moved")
    refused = cermet("restore", tmp_path / "delta", tmp_path / "out")
    assert (refused.code, "is not where it was" in refused.said) == (2, True)
    assert cermet("restore", tmp_path / "moved", tmp_path / "delta", tmp_path / "out").code == 0


def test_forms_of_restore_that_make_no_sense(
    cermet: Cermet, pool: tuple[Path, Path], archive: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for given, said in (
        ((archive, out, "--task", "math"), "is a delta archive of one expert, so it has no tasks"),
        ((pool[0], archive, out, "--base", pool[0]), "The base is named twice"),
        ((archive, pool[0], out), f"'{pool[0]}' holds no delta.json"),
        ((archive,), "Name what is restored from, and the folder of the output."),
        ((pool[0], out, "--task", "x"), "holds no assembly.json"),
        ((archive, archive, "--overwrite"), "cannot be the output"),
        ((archive, pool[0], "--overwrite"), "cannot be the output"),
    ):
        done = cermet("restore", *given)
        assert (done.code, said in done.said) == (2, True), done.said


def test_an_archive_is_no_model(cermet: Cermet, archive: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"merge_method: linear\nmodels: [{{model: {archive}}}]\n", "utf-8")
    done = cermet("plan", recipe)
    assert (done.code, "is a delta archive, not a model" in done.said) == (2, True)


def test_outputs_that_exist(
    cermet: Cermet, pool: tuple[Path, Path], archive: Path, tmp_path: Path
) -> None:
    given = ("compress", *pool, "-o", archive, "--codec", "int8")
    assert (cermet(*given).code, cermet(*given, "--overwrite").code) == (2, 0)
    assert "codes/" in " ".join(load_file(archive / "delta.safetensors"))
    for place in pool:
        done = cermet("compress", *pool, "-o", place, "--codec", "int8", "--overwrite")
        assert (done.code, "cannot be the output" in done.said) == (2, True)


def test_ctrl_c_leaves_nothing(pool: tuple[Path, Path], archive: Path, tmp_path: Path) -> None:
    def stop(tensor: str, nbytes: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        package.compress(*pool, tmp_path / "d", codec="int8", progress=stop)
    with pytest.raises(KeyboardInterrupt):
        package.restore(archive, tmp_path / "out", progress=stop)
    assert [p.name for p in tmp_path.iterdir()] == ["delta"]
