"""What an output has beside its weights: tokenizer, templates, config, model card, record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from cermet.checkpoints.carry import chat_template
from cermet.core.errors import InputError
from tests.recipes.pools import config_of, merged, save_llama

_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json",
              "merges.txt", "tokenizer.model")  # fmt: skip
_OTHER = ("generation_config.json", "preprocessor_config.json", "processor_config.json")


@pytest.fixture
def pool(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Three models whose files hold the model's name."""
    folders = [tmp_path / name for name in "abc"]
    for i, folder in enumerate(folders):
        save_llama(folder, i)
        for file in (*_TOKENIZER, *_OTHER):
            model = {"type": "WordLevel", "vocab": {"x": 0}}
            said = {"of": folder.name, **({"model": model} if file == "tokenizer.json" else {})}
            text = json.dumps(said) if file.endswith("json") else folder.name
            (folder / file).write_text(text)
        (folder / "notes.md").write_text("private")
        (folder / "optimizer.pt").write_text("large")
    return folders[0], folders[1], folders[2]


def _recipe(pool: tuple[Path, Path, Path], **more: Any) -> dict[str, Any]:
    models = [{"model": str(p), "parameters": {"weight": 1}} for p in pool[1:]]
    return {"merge_method": "task_arithmetic", "base_model": str(pool[0]), "models": models, **more}


def test_the_base_lends_its_files(pool: tuple[Path, Path, Path], tmp_path: Path) -> None:
    merged(_recipe(pool), tmp_path / "out")
    for file in (*_TOKENIZER, *_OTHER):
        assert (tmp_path / "out" / file).read_bytes() == (pool[0] / file).read_bytes()
    present = {p.name for p in (tmp_path / "out").iterdir()}
    own = {"model.safetensors", "config.json", "README.md", "cermet.json"}
    assert present == {*_TOKENIZER, *_OTHER, *own}


def test_without_a_base_the_first_model_does(pool: tuple[Path, Path, Path], tmp_path: Path) -> None:
    models = [{"model": str(p)} for p in (pool[2], pool[0])]
    recipe = {"merge_method": "linear", "models": models, "parameters": {"weight": 1}}
    merged(recipe, tmp_path / "out")
    assert config_of(tmp_path / "out")["model_type"] == "llama"
    assert (tmp_path / "out" / "tokenizer.model").read_text() == "c"


@pytest.mark.parametrize(("source", "owner"), [("base", "a"), (1, "b"), (2, "c")])
def test_a_recipe_may_name_whose_tokenizer_it_is(
    source: str | int, owner: str, pool: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    named = source if isinstance(source, str) else str(pool[source])
    merged(_recipe(pool, tokenizer_source=named), tmp_path / "out")
    for file in _TOKENIZER:
        carried = (tmp_path / "out" / file).read_bytes()
        assert carried == (pool["abc".index(owner)] / file).read_bytes()
    for file in _OTHER:
        assert '"a"' in (tmp_path / "out" / file).read_text()


def _template(folder: Path, text: str, *, named: bool = False) -> None:
    value: Any = [{"name": "tools", "template": "?"}, {"name": "default", "template": text}]
    config = {"chat_template": value if named else text}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def test_auto_takes_the_template_that_most_models_have(
    pool: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    (pool[0] / "chat_template.jinja").write_text("{{ rare }}\n")
    _template(pool[1], "{{ common }}")
    _template(pool[2], "{{ common }}", named=True)
    merged(_recipe(pool, chat_template="auto"), tmp_path / "out")
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "{{ common }}"


def test_auto_writes_nothing_where_no_model_has_one(
    pool: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    merged(_recipe(pool, chat_template="auto"), tmp_path / "out")
    assert not (tmp_path / "out" / "chat_template.jinja").exists()


@pytest.mark.parametrize("name", ["chatml", "llama3", "mistral", "alpaca"])
def test_known_templates_render_a_conversation(name: str) -> None:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    text = chat_template(name, [])
    assert text is not None
    said = [{"role": r, "content": f"<{r}>"} for r in ("user", "assistant", "user")]
    found = ImmutableSandboxedEnvironment().from_string(text).render(
        messages=said, bos_token="<s>", eos_token="</s>", add_generation_prompt=True
    )  # fmt: skip
    assert found.count("<user>") == 2
    assert found.index("<user>") < found.index("<assistant>")


def test_a_template_may_be_written_out(pool: tuple[Path, Path, Path], tmp_path: Path) -> None:
    literal = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    (pool[0] / "chat_template.jinja").write_text("{{ old }}")
    merged(_recipe(pool, chat_template=literal), tmp_path / "out")
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == literal


def test_a_word_is_no_template() -> None:
    with pytest.raises(InputError, match=r"'vicuna' is not a chat template\. Known: auto, chatml"):
        chat_template("vicuna", [])


def test_the_config_keeps_all_that_does_not_change(
    pool: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    before = {**config_of(pool[0]), "rope_scaling": {"factor": 2.0}, "my_key": [1, None, "é"]}
    (pool[0] / "config.json").write_text(json.dumps(before))
    merged(_recipe(pool, out_dtype="bfloat16"), tmp_path / "out")
    assert config_of(tmp_path / "out") == {**before, "torch_dtype": "bfloat16"}


def test_the_newer_name_of_the_dtype_is_kept(pool: tuple[Path, Path, Path], tmp_path: Path) -> None:
    before = config_of(pool[0])
    before["dtype"] = before.pop("torch_dtype")
    (pool[0] / "config.json").write_text(json.dumps(before))
    merged(_recipe(pool, out_dtype="float16"), tmp_path / "out")
    assert config_of(tmp_path / "out") == {**before, "dtype": "float16"}


def test_the_model_card_says_what_was_made_of_what_and_how(
    pool: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    recipe = _recipe(pool, seed=3)
    found = merged(recipe, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    front, body = card.split("---\n")[1:3]
    head: Mapping[str, Any] = YAML(typ="safe").load(front)
    assert head["library_name"] == "transformers"
    assert {"merge", "cermet"} <= set(head["tags"])
    assert "# A merge of 3 models" in body
    assert "`task_arithmetic`" in body
    assert "arXiv:2212.04089" in body
    assert f"{sum(t.numel() for t in found.values()):,} parameters in {len(found)} tensors" in body
    for folder in pool:
        assert f"`{folder}`" in body
    written = YAML(typ="safe").load(body.split("```yaml\n")[1].split("```")[0])
    assert written == recipe


def test_the_record_holds_the_run(pool: tuple[Path, Path, Path], tmp_path: Path) -> None:
    recipe = _recipe(pool, parameters={"lambda": [0.5, 1.0]})
    found = merged(recipe, tmp_path / "out")
    record = json.loads((tmp_path / "out" / "cermet.json").read_text())
    assert record["recipe"] == recipe
    assert [m["name"] for m in record["models"]] == [str(pool[1]), str(pool[2]), str(pool[0])]
    assert set(record["tensors"]) == set(found)
    entry = record["tensors"]["model.layers.1.mlp.up_proj.weight"]
    assert (entry["parameters"]["weight"], entry["parameters"]["lambda"]) == ([1.0, 1.0], 1.0)
    assert [s["model"] for s in entry["sources"]] == [0, 1, 2]
    assert {"python", "torch", "cermet"} <= set(record["versions"])
    assert {"merge_seconds", "peak_private_bytes", "threads"} <= set(record["run"])
    present = {p.name for p in (tmp_path / "out").iterdir()}
    assert set(record["files"]) == present - {"cermet.json"}
