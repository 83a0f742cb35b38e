"""`cermet evaluate`: the table, the records, what is found again, what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from unittest import mock

import pytest
import torch
from safetensors.torch import save_file

import cermet as package
from cermet.evaluate.evaluator import Evaluator
from cermet.evaluate.outcomes import Outcomes
from tests.cli.commands import Cermet
from tests.evaluate import models

_TOKENIZER = ["tokenizer.json", "tokenizer_config.json"]
_KINDS = {"bits": "likelihood", "write": "generate", "pick": "choose"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed, name in enumerate(("base", "expert", "merged")):
        models.save_llama(tmp_path / name, seed)
    models.write_pool(tmp_path, _KINDS)
    return tmp_path


def test_the_table_and_the_records(root: Path, cermet: Cermet) -> None:
    done = cermet(
        "evaluate", root / "merged", "--pool", root, "--against", "base", "--experts",
        "--out", root / "out",
    )  # fmt: skip
    assert done.code == 0, done.err
    for word in ("bits/char", "exact match", "of the expert", "worse", "agree", "tokens", "Peak"):
        assert word in done.out
    assert "3 tasks, 0 of them found, not run." in done.out
    records = [json.loads(x) for x in (root / "out" / "records.jsonl").read_text().splitlines()]
    assert [r["task"] for r in records] == list(_KINDS)
    for record in records:
        kept = Outcomes.load(root / "out" / "outcomes" / record["outcomes"])
        assert kept.value == record["value"]
        assert record["low"] <= record["value"] <= record["high"]
        assert record["against"] == "base"
        assert record["examples"] == 24
    assert records[0]["normalised"] == records[0]["expert"] / records[0]["value"]
    for name in ("agreement", "negative_flips"):  # a text is neither right nor wrong
        assert [r[name] is None for r in records] == [True, False, False]
    assert all(r["other"] != r["value"] for r in records[:1])
    (bits,) = [line.split() for line in done.out.splitlines() if line.startswith("bits ")]
    assert bits[8:11] == [f"{records[0]['other']:.3f}", "-", "-"]


def test_a_task_that_is_known_is_not_run_again(root: Path, cermet: Cermet) -> None:
    command = ("evaluate", root / "merged", "--pool", root, "--out", root / "out", "--json")
    ran, own = list[str](), Evaluator.outcomes

    def counted(self: Evaluator, model: Path, task: str, *rest: object) -> Outcomes:
        ran.append(task)
        return own(self, model, task, *rest)  # type: ignore[arg-type]

    with mock.patch.object(Evaluator, "outcomes", counted):
        first = cermet(*command, "--task", "bits")
        whole = json.loads(cermet(*command).out)
        again = json.loads(cermet(*command).out)
        assert ran == list(_KINDS)  # bits was found
        cermet(*command, "--limit", "5")
        assert ran == [*_KINDS] * 2
        models.write_lines(
            root / "pick.jsonl", [{"prompt": "a", "options": ["b", "c"], "answer": 0}]
        )
        cermet(*command)
        assert ran[6:] == ["pick"]
        shutil.copy(root / "base" / "model.safetensors", root / "merged" / "model.safetensors")
        cermet(*command)
    assert ran[7:] == list(_KINDS)
    assert [t["run"] for t in whole["tasks"]] == [False, True, True]
    assert not any(t["run"] for t in again["tasks"])
    assert json.loads(first.out)["tasks"][0]["value"] == again["tasks"][0]["value"]


def test_experts_that_the_folder_knows_are_used(root: Path, cermet: Cermet) -> None:
    common = ("--pool", root, "--out", root / "out", "--task", "bits", "--json")
    alone = json.loads(cermet("evaluate", root / "merged", *common).out)
    assert alone["tasks"][0]["expert"] is None
    expert = json.loads(cermet("evaluate", "first", *common).out)  # by its name in the pool
    assert expert["tasks"][0]["normalised"] == 1.0
    beside = json.loads(cermet("evaluate", root / "merged", *common).out)
    assert beside["tasks"][0]["expert"] == expert["tasks"][0]["value"]
    assert beside["normalised"] == beside["tasks"][0]["normalised"] != 1.0


def test_nothing_is_run_twice_in_one_evaluation(root: Path, cermet: Cermet) -> None:
    with mock.patch.object(
        Evaluator, "outcomes", autospec=True, side_effect=Evaluator.outcomes
    ) as ran:
        command = ("evaluate", "first", "--pool", root, "--task", "pick", "--json")
        found = json.loads(cermet(*command, "--experts", "--against", "first").out)
    assert ran.call_count == 1
    assert (found["normalised"], found["forgetting"]) == (1.0, 0.0)


def test_a_base_with_an_adapter_is_made_one(root: Path, cermet: Cermet) -> None:
    adapter = root / "adapter"
    adapter.mkdir()
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 2, "target_modules": ["q_proj"]}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    save_file({name.format("A"): torch.ones(1, 16), name.format("B"): torch.ones(16, 1)},
              adapter / "adapter_model.safetensors")  # fmt: skip
    common = ("--pool", root, "--task", "bits", "--json")
    plain = json.loads(cermet("evaluate", root / "base", *common).out)
    done = cermet("evaluate", f"{root / 'base'}+{adapter}", *common)
    assert done.code == 0, done.err
    assert json.loads(done.out)["tasks"][0]["value"] != plain["tasks"][0]["value"]
    refused = cermet("evaluate", adapter, *common)
    assert refused.code == 2
    assert "is an adapter; write its base before it" in refused.said


def test_an_assembly_does_each_task_with_its_expert(root: Path, cermet: Cermet) -> None:
    recipe = {
        "merge_method": "tall_mask", "base_model": str(root / "base"),
        "models": [{"model": str(root / n)} for n in ("expert", "merged")],
    }  # fmt: skip
    package.merge(recipe, root / "kept")
    package.restore(root / "kept", root / "restored", task="expert")
    common = ("--pool", root, "--task", "bits", "--json")
    whole = json.loads(cermet("evaluate", root / "kept", *common).out)
    alone = json.loads(cermet("evaluate", root / "restored", *common).out)
    assert whole["tasks"][0]["value"] == alone["tasks"][0]["value"]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["$/merged", "--task", "bitz"], 2, "no task 'bitz'. Did you mean 'bits'?"),
        (["$/nowhere"], 2, "There is no folder"),
        (["$/merged", "--against", "$/gone"], 2, "There is no folder"),
        (["$/bare"], 2, "holds no tokenizer"),
        (["$/merged", "--device", "abacus"], 2, "abacus"),
        (["$/merged", "--device", "cuda:99"], 4, "CUDA"),
        (["$/merged/model.safetensors"], 2, "is a file"),
    ],
)
def test_what_is_refused(
    arguments: list[str], code: int, says: str, root: Path, cermet: Cermet
) -> None:
    shutil.copytree(root / "merged", root / "bare", ignore=lambda *_: _TOKENIZER)
    given = [a.replace("$", str(root)) for a in arguments]
    done = cermet("evaluate", *given, "--pool", root, "--out", root / "out")
    assert done.code == code
    assert says in done.said
    assert not (root / "out" / "records.jsonl").exists()


def test_bad_data_is_named_before_anything_is_run(root: Path, cermet: Cermet) -> None:
    (root / "pick.jsonl").write_text("{}\n")
    with mock.patch.object(Evaluator, "outcomes") as ran:
        done = cermet("evaluate", root / "merged", "--pool", root)
    assert (done.code, ran.called) == (3, False)
    assert "pick.jsonl:1: an example is written" in done.said


def test_records_of_something_else_are_not_overwritten(root: Path, cermet: Cermet) -> None:
    (root / "out").mkdir()
    (root / "out" / "records.jsonl").write_text("mine\n")
    command = ("evaluate", root / "merged", "--pool", root, "--task", "bits", "--out", root / "out")
    done = cermet(*command)
    assert done.code == 3
    assert "holds other lines" in done.said
    assert (root / "out" / "records.jsonl").read_text() == "mine\n"


def test_a_room_does_not_hide_the_verb_of_its_name(root: Path) -> None:
    import cermet.evaluate.statistics  # noqa: F401 - it would set the attribute

    found = package.evaluate(root / "merged", root, tasks=["bits"], limit=3)
    assert found.tasks[0].examples == 3
