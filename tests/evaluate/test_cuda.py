"""`evaluate` on a GPU: the answers of the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import cermet
from cermet.evaluate.kept import Kept
from tests.devices import on_devices
from tests.evaluate import models

_TASKS = {
    "base": ["likelihood", "generate", "choose"],
    "bert": ["embed"],
    "vit": ["images"],
    "classifier": ["classify"],
}


@on_devices(_TASKS, ["classifier"])
def test_the_answers_of_the_cpu(device: str, case: str, tmp_path: Path) -> None:
    models.save_llama(tmp_path / "base", 0)
    models.save_llama(tmp_path / "expert", 1)
    models.save_bert(tmp_path / "bert", 0)
    models.save_bert(tmp_path / "classifier", 0, head="ForSequenceClassification", num_labels=3)
    models.save_vit(tmp_path / "vit", 0)
    models.write_pool(tmp_path, {kind: kind for kind in _TASKS[case]})
    model = tmp_path / case
    here, away = (
        cermet.evaluate(model, tmp_path, device=where, threads=1, out=tmp_path / name)
        for name, where in (("here", "cpu"), ("there", device))
    )
    assert away.device == device
    for one, two in zip(here.tasks, away.tasks, strict=True):
        first, second = (
            Kept(tmp_path / name).find(one.task, one.split, result.key)
            for name, result in (("here", one), ("there", two))
        )
        assert first is not None
        assert second is not None
        assert np.array_equal(first.answers, second.answers), one.task
        np.testing.assert_allclose(second.scores, first.scores, rtol=1e-4)
