"""The card of an output, read as the hub's own library reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

import cermet
from cermet import api
from cermet.core.fingerprint import sha256_hex
from cermet.recipes.opening import open_model
from cermet.recipes.schema import parse_model
from tests.recipes.pools import llama_config, save_llama

COMMIT = "c" * 40


def _state(folder: Path, front: str) -> None:
    (folder / "README.md").write_text(f"---\n{front}---\n# A card\n", "utf-8")


def _pool(root: Path) -> dict[str, Any]:
    """A recipe over a base and an expert here, and an expert in the form of the hub's cache."""
    hub = root / "hub" / "models--org--code" / "snapshots" / COMMIT
    folders = [root / "base", root / "math", hub]
    for seed, folder in enumerate(folders):
        save_llama(folder, seed)
    base, *experts = map(str, folders)
    models = [{"model": m, "parameters": {"weight": 0.5}} for m in experts]
    return {"merge_method": "task_arithmetic", "base_model": base, "models": models, "seed": 7}


def _folders(recipe: dict[str, Any]) -> list[Path]:
    return [Path(recipe["base_model"]), *(Path(m["model"]) for m in recipe["models"])]


def _merged(recipe: dict[str, Any], out: Path) -> tuple[Any, str, dict[str, Any], api.Merged]:
    done = api.merge(recipe, out, threads=1)
    card = ModelCard.load(out / "README.md")
    record = json.loads((out / "cermet.json").read_text("utf-8"))
    return card.data.to_dict(), card.text, record, done


def test_what_all_sources_state_is_carried(tmp_path: Path) -> None:
    recipe = _pool(tmp_path)
    for i, folder in enumerate(_folders(recipe)):
        _state(
            folder,
            "license: mit\nlanguage: [en, de]\npipeline_tag: text-generation\n"
            f"library_name: transformers\ntags: [chat, 'license:mit', own-{i}]\n",
        )
    (tmp_path / "math" / "config.json").write_text(
        json.dumps(llama_config(_name_or_path="org/base"))
    )
    data, text, record, done = _merged(recipe, tmp_path / "out")
    assert data == {
        "license": "mit",
        "base_model": ["org/base", "org/code"],
        "base_model_relation": "merge",
        "language": ["en", "de"],
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["merge", "cermet", "task_arithmetic", "chat"],
    }
    assert done.warnings == ()
    assert "All sources state the same licence" in text
    assert f"`org/code@{COMMIT}`" in text
    assert "Seed 7; python" in text
    for model in record["models"]:
        for file in model["files"]:
            assert file["content_sha256"] in text


def test_what_differs_is_left_out_and_listed(tmp_path: Path) -> None:
    recipe = _pool(tmp_path)
    fronts = ("license: mit\nlanguage: en\n", "license: apache-2.0\n", "license: mit\n")
    for folder, front in zip(_folders(recipe), fronts, strict=True):
        _state(folder, front)
    data, text, record, done = _merged(recipe, tmp_path / "out")
    assert data["license"] == "other"
    assert not {"language", "pipeline_tag", "license_name"} & set(data)
    assert "The licences of the sources are not the same" in text
    assert record["licences"] == {"license": ["other"], "missing": [], "conflicts": []}
    assert done.warnings == ()


def test_conflicts_and_gaps_are_said_in_plan_card_and_record(tmp_path: Path) -> None:
    recipe = _pool(tmp_path)
    _, math, code = _folders(recipe)
    _state(math, "license: cc-by-nc-4.0\n")
    (code / "README.md").write_text("---\nlicense: [mit\n---\n")
    warnings = api.plan(recipe).warnings
    assert [w.split(" ")[0] for w in warnings] == ["A", "No", "The"]
    assert "is not valid YAML" in warnings[0]
    data, text, record, done = _merged(recipe, tmp_path / "out")
    assert done.warnings == warnings
    assert "license" not in data
    assert record["warnings"] == list(warnings)
    assert record["licences"]["missing"] == [str(code)]
    for warning in warnings[1:]:
        assert warning in text
    assert [o["license"] for o in record["origins"]] == [["cc-by-nc-4.0"], [], ["apache-2.0"]]


def test_no_path_of_this_machine_is_in_the_metadata(tmp_path: Path) -> None:
    recipe = _pool(tmp_path)
    for folder in _folders(recipe):
        (folder / "config.json").write_text(json.dumps(llama_config(_name_or_path=str(folder))))
    data, _, _, _ = _merged(recipe, tmp_path / "out")
    assert data["base_model"] == ["org/code"]
    assert str(tmp_path) not in json.dumps(data)


def test_a_card_without_links_names_no_relation(tmp_path: Path) -> None:
    models = [{"model": save_llama(tmp_path / n, i)} for i, n in enumerate("ab")]
    recipe = {"merge_method": "linear", "models": models, "parameters": {"weight": 1}}
    data, _, _, _ = _merged(recipe, tmp_path / "out")
    assert not {"base_model", "base_model_relation"} & set(data)


@pytest.mark.parametrize("sign", ["a|b", "a`b", "a\nb"])
def test_names_cannot_break_the_table(sign: str, tmp_path: Path) -> None:
    models = [{"model": {"model": {"path": save_llama(tmp_path / sign)}}}]
    recipe = {"merge_method": "passthrough", "models": models}
    _, text, _, _ = _merged(recipe, tmp_path / "out")
    rows = [line for line in text.splitlines() if line.endswith(" | permissive |")]
    assert len(rows) == 1
    assert len(rows[0].replace("\\|", "").split("|")) == 6


def test_the_content_digest_is_what_the_documentation_says(tmp_path: Path) -> None:
    recipe = _pool(tmp_path)
    _, _, record, _ = _merged(recipe, tmp_path / "out")
    for i, model in enumerate(record["models"]):
        tensors = open_model(parse_model(model["name"])).tensors
        read = {
            source["tensor"]: source["digest"]
            for entry in record["tensors"].values()
            for source in entry["sources"]
            if source["model"] == i
        }
        lines = [
            f"{n} {tensors[n].dtype} {tensors[n].shape} {tensors[n].begin} {digest}"
            for n, digest in read.items()
        ]
        (file,) = model["files"]
        assert file["content_sha256"] == sha256_hex("\n".join(sorted(lines)).encode())
        assert file["tensors"] == file["tensors_read"] == len(tensors)


def test_every_tensor_of_a_source_counts(tmp_path: Path) -> None:
    """One changed number changes the digest of its file, and of no other."""
    from safetensors.torch import load_file, save_file

    recipe = _pool(tmp_path)
    before = _merged(recipe, tmp_path / "one")[2]["models"]
    file = tmp_path / "math" / "model.safetensors"
    weights = {n: t.clone() for n, t in load_file(file).items()}
    weights["model.norm.weight"][3] += 1
    save_file(weights, file, metadata={"format": "pt"})
    after = _merged(recipe, tmp_path / "two")[2]["models"]
    changed = [a["name"] for a, b in zip(before, after, strict=True) if a["files"] != b["files"]]
    assert changed == [str(tmp_path / "math")]


def test_layers_that_are_left_out_are_not_read(tmp_path: Path) -> None:
    model = save_llama(tmp_path / "a", layers=3)
    slices = [{"sources": [{"model": model, "layer_range": [0, 2]}]}]
    recipe = {"merge_method": "passthrough", "slices": slices}
    _, _, record, _ = _merged(recipe, tmp_path / "out")
    (file,) = record["models"][0]["files"]
    assert (file["tensors"], file["tensors_read"]) == (30, 21)


def test_a_restored_expert_has_the_sources_of_its_assembly(tmp_path: Path) -> None:
    recipe = {**_pool(tmp_path), "merge_method": "emr"}
    for model in recipe["models"]:
        del model["parameters"]
    for folder in _folders(recipe):
        _state(folder, "license: mit\nlanguage: en\n")
    done = api.merge(recipe, tmp_path / "all", threads=1)
    cermet.restore(tmp_path / "all", tmp_path / "one", task=done.experts[0], threads=1)
    data = ModelCard.load(tmp_path / "one" / "README.md").data.to_dict()
    assert (data["license"], data["base_model"]) == ("mit", ["org/code"])
    assert (data["language"], data["base_model_relation"]) == ("en", "merge")
    record = json.loads((tmp_path / "one" / "cermet.json").read_text("utf-8"))
    whole = json.loads((tmp_path / "all" / "cermet.json").read_text("utf-8"))
    assert record["origins"] == whole["origins"]
    assert (record["seed"], record["machine"]) == (7, whole["machine"])
    base = next(m for m in whole["models"] if m["name"] == str(tmp_path / "base"))
    assert base["files"] in [m["files"] for m in record["models"]]
    assert api.verify(tmp_path / "one").problems == []


def test_what_lies_below_an_adapter_has_a_digest(tmp_path: Path) -> None:
    """Known from the base where that is merged too; read for itself where it is not."""
    from tests.reliability.malformed import Pool

    pool = Pool(tmp_path / "pool")
    pool.adapter()
    api.merge(pool.save_recipe(), tmp_path / "out", threads=1)
    base = str(tmp_path / "pool" / "base")
    name = f"{base}+{tmp_path / 'pool' / 'adapter'}"
    alone = {"merge_method": "passthrough", "models": [{"model": name}]}
    api.merge(alone, tmp_path / "alone", threads=1)
    files = []
    for out in ("out", "alone"):
        models = json.loads((tmp_path / out / "cermet.json").read_text("utf-8"))["models"]
        files += [m["files"][0] for m in models if m["name"] in (base, name)]
    assert len(files) == 3
    assert files[0]["content_sha256"] is not None
    assert files[0] == files[1] == files[2]
