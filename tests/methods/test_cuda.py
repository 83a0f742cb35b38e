"""Methods on a GPU: models in memory, checkpoints and adapters give what they give on the CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import cermet
from cermet.core.registry import all_factor_methods
from tests.devices import near, on_devices, there
from tests.methods.factors.adapters import Adapter, adapter
from tests.methods.forms import DEFAULTS, FORMS, METHODS, Form, label, pool, same_bits
from tests.recipes.pools import save_llama

_RESTORED = [form for form in DEFAULTS if form.method.restore is not None]
_ON_DELTAS = ["ties", "dare_linear", "tsv_m", "opcm"]  # the last two in the span of all
_ADAPTERS = [*all_factor_methods(), *_ON_DELTAS]
_RECORD = "cermet.json"


def _share(form: Form) -> float:
    """How far off a method may be: products and descents add up more roundings than sums."""
    if "steps" in form.parameters:
        return 1e-3
    return 1e-4 if ".spectral." in form.method.function.__module__ else 1e-5


@on_devices(FORMS, DEFAULTS[::8], label)
def test_models_in_memory(device: str, case: Form) -> None:
    base, experts = pool(case.experts)
    expected = case.merge(base, experts, seed=3)
    found = case.merge(there(base, device), [there(e, device) for e in experts], seed=3)
    assert {tensor.device.type for tensor in found.values()} == {device}
    near(found, expected, _share(case))


@on_devices(["ties", "slerp", "tsv_m"], ["ties"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_narrow_models(dtype: torch.dtype, device: str, case: str) -> None:
    """Rounded once, so that they are off by the last bit at most."""
    form = next(form for form in FORMS if form.method.name == case)
    base, experts = pool(form.experts, dtype=dtype)
    expected = form.merge(base, experts)
    found = form.merge(there(base, device), [there(e, device) for e in experts])
    near(found, expected, 2 * torch.finfo(dtype).eps)


@on_devices(_RESTORED, _RESTORED[:1], label)
def test_an_expert_of_an_assembly(device: str, case: Form) -> None:
    """The work of restoring is the CPU's, so the bits are too."""
    base, experts = pool(case.experts)
    expected = case.merge(base, experts, task=1)
    found = case.merge(there(base, device), [there(e, device) for e in experts], task=1)
    assert {tensor.device.type for tensor in found.values()} == {device}
    assert same_bits(there(found, "cpu"), expected)


@on_devices(["linear", "ties", "della", "tsv_m"], ["linear", "ties"])
def test_a_number_that_is_none(device: str, case: str) -> None:
    """It is named, before a search for a rank goes on, which it would keep from ending, and where
    a decomposition fails of it.
    """
    form = next(form for form in FORMS if form.method.name == case)
    base, experts = pool(form.experts)
    experts[1]["matrix"].fill_(float("nan"))
    dense = {"density": 0.999} if case == "ties" else {}
    with pytest.raises(cermet.NonFiniteError, match=r"'matrix' of model 'expert1'"):
        form.merge(there(base, device), [there(e, device) for e in experts], **dense)


@on_devices(["task_arithmetic", "dare_ties", "iso_c"], ["dare_ties"])
def test_checkpoints(device: str, case: str, tmp_path: Path) -> None:
    recipe = {
        "merge_method": case,
        "base_model": save_llama(tmp_path / "base", 0),
        "models": [{"model": save_llama(tmp_path / f"m{i}", i)} for i in (1, 2)],
        "parameters": {} if case == "iso_c" else {"weight": 0.5},
        "seed": 4,
    }
    cermet.merge(recipe, tmp_path / "here")
    cermet.merge(recipe, tmp_path / "there", device=device)
    near(cermet.open(tmp_path / "there"), cermet.open(tmp_path / "here"), 1e-4)
    _is_recorded(tmp_path / "there", device)
    assert cermet.verify(tmp_path / "there").problems == []


def _is_recorded(folder: Path, device: str) -> None:
    record = json.loads((folder / _RECORD).read_text("utf-8"))
    assert record["run"]["device"] == device
    assert ("gpu" in record["machine"]) == (device != "cpu")


# -- adapters -------------------------------------------------------------------


def _given(method: str) -> dict[str, Any]:
    """What a method needs. svd_clamp depends on the signs that a library chooses."""
    known = all_factor_methods().get(method) or METHODS[method]
    return {k: v for k, v in {"weight": 0.8, "density": 0.5}.items() if k in known.parameters}


def _adapters() -> list[Adapter]:
    found = []
    for seed in (1, 2):
        tensors, config = adapter(3, seed, 4, lora_bias=True)
        bias = torch.randn(10, generator=torch.Generator().manual_seed(seed))
        found.append((tensors | {"x.lora_B.bias": bias}, config))
    return found


def _changes(tensors: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    """What an adapter adds: its factors may differ in signs."""
    scale = config["lora_alpha"] / config["r"]
    b, a = (tensors[f"x.lora_{n}.weight"].cpu().double() for n in "BA")
    return {"weight": scale * b @ a, "bias": scale * tensors["x.lora_B.bias"].cpu().double()}


@on_devices(_ADAPTERS, ["lora_reduced", *_ON_DELTAS[::2]])
def test_adapters_in_memory(device: str, case: str) -> None:
    held = _adapters()
    expected = cermet.merge_adapters(case, held, **_given(case))
    moved = [(there(tensors, device), config) for tensors, config in held]
    found, config = cermet.merge_adapters(case, moved, **_given(case))
    assert {tensor.device.type for tensor in found.values()} == {device}
    near(_changes(found, config), _changes(*expected), 1e-4)


@on_devices(["lora_reduced", *_ON_DELTAS], ["lora_reduced", "ties"])
def test_adapters_on_disk(device: str, case: str, tmp_path: Path) -> None:
    models = []
    for place, (tensors, config) in enumerate(_adapters()):
        folder = tmp_path / f"a{place}"
        folder.mkdir()
        save_file(tensors, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text(json.dumps(config), "utf-8")
        models.append({"model": str(folder)})
    recipe = {"merge_method": case, "models": models, "parameters": _given(case)}
    found = []
    for name, where in (("here", "cpu"), ("there", device)):
        out = tmp_path / name
        cermet.merge(recipe, out, device=where)
        config = json.loads((out / "adapter_config.json").read_text("utf-8"))
        found.append(_changes(dict(cermet.open(out / "adapter_model.safetensors")), config))
    near(found[1], found[0], 1e-4)
    _is_recorded(tmp_path / "there", device)
    assert cermet.verify(tmp_path / "there").problems == []


def test_adapters_on_two_devices_are_refused() -> None:
    """The one on `meta` has no numbers, which says that its place is looked at first."""
    (here, config), (other, _) = _adapters()
    away = {name: tensor.to("meta") for name, tensor in other.items()}
    with pytest.raises(cermet.MismatchError, match="adapter1 is on meta, others are on cpu"):
        cermet.merge_adapters("lora_sum", [(here, config), (away, config)], weight=1.0)
