"""Golden files of codecs: compressed and restored on disk, by the two public calls."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import cermet
from tests.golden.case import Case

__all__ = ["BY_CODECS", "archived", "extracted"]

Model = dict[str, Tensor]


def _saved(folder: Path, tensors: Mapping[str, Tensor]) -> Path:
    folder.mkdir()
    save_file({n: t.contiguous() for n, t in tensors.items()}, folder / "model.safetensors")
    return folder


def archived(folder: Path, case: Case, codec: str, **given: Any) -> Path:
    """The archive of a case's expert; a case without a base is one of an adapter, from zero."""
    expert = case.experts[0]
    base = case.groups.get("base", {n: torch.zeros_like(t) for n, t in expert.items()})
    models = _saved(folder / "base", base), _saved(folder / "expert", expert)
    cermet.compress(*models, folder / "delta", codec=codec, **given)
    return folder / "delta"


def _restored(case: Case, codec: str, **given: Any) -> Model:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        needs = {n: folder / f"{n}.safetensors" for n in given.pop("needs", {})}
        for statistic, path in needs.items():
            save_file(_STATISTICS[statistic](case), path)
        archive = archived(folder, case, codec, needs=needs, **given)
        cermet.restore(archive, folder / "out")
        return {n: t.clone() for n, t in cermet.open(folder / "out").items()}


def _factors(case: Case) -> Model:
    """The singular triplets that a case starts from."""
    found = {}
    for name, value in case.groups["in"].items():
        side, _, tensor = name.partition("/")
        found[f"{tensor or 'w'}.{side.lower()}"] = value.contiguous()
    return found


def _gram(case: Case) -> Model:
    inputs = case.groups["calib"]["x"].flatten(0, 1)
    return {"w": inputs.t() @ inputs}


_STATISTICS: Mapping[str, Callable[[Case], Model]] = {"factors": _factors, "gram": _gram}


def _bitdelta(case: Case) -> Model:
    return _restored(case, "bitdelta")


def compeft_parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    """The authors' parameters as ours."""
    density = given["k"] / 100 if given["k"] > 1 else given["k"]
    if given["replace_factor"] == -2:
        return {"density": density, "magnitude": "mean"}
    return {"density": density, "alpha": given["replace_factor"]}


def _compeft(case: Case) -> Model:
    density = compeft_parameters(case.parameters)["density"]
    if case.parameters["replace_factor"] == -1 or density == 1:  # pruned only, or not at all
        return _restored(case, "pruned", density=density, precision="float32")
    return _restored(case, "compeft", **compeft_parameters(case.parameters))


def _group(given: Mapping[str, Any]) -> int:
    return max(0, given["groupsize"])


def _delta_come(case: Case) -> Model:
    given = case.parameters
    columns = {f"at_{bits}": given["cols"].get(str(bits), 0) for bits in (16, 8, 4, 3, 2)}
    needs = ["factors", "gram"] if given["calibrated"] else ["factors"]
    return _restored(
        case, "delta_come", group=_group(given), act_order=given["act_order"],
        damping=given["percdamp"], exact=True, needs=dict.fromkeys(needs), **columns,
    )  # fmt: skip


def _graftllm(case: Case) -> Model:
    given = case.parameters
    columns = {f"attention_{bits}": count for bits, count in given["attn_cols"].items()}
    columns |= {f"mlp_{bits}": count for bits, count in given["mlp_cols"].items()}
    return _restored(
        case, "graftllm", group=_group(given), exact=True, needs={"factors": None}, **columns
    )


def extracted(folder: Path, case: Case) -> Path:
    """The adapter of a case of mergekit's extraction."""
    given = case.parameters
    return archived(
        folder, case, "lora", rank=given["max_rank"], epsilon=given.get("sv_epsilon", 0.0),
        distribute=given.get("distribute_scale", True),
        rest="base" if given.get("skip_undecomposable") else "expert",
    )  # fmt: skip


def _lora_extract(case: Case) -> Model:
    with tempfile.TemporaryDirectory() as name:
        return load_file(extracted(Path(name), case) / "adapter_model.safetensors")


BY_CODECS: Mapping[str, Callable[[Case], Model]] = {
    "bitdelta": _bitdelta,
    "compeft": _compeft,
    "delta_come": _delta_come,
    "graftllm": _graftllm,
    "lora_extract": _lora_extract,
}
"""Name of a golden method -> our outputs."""
