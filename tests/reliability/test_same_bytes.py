"""One recipe and one seed give the same bytes, however the work is cut, shared out or budgeted.

Three pools: a tiny one whose tensors are cut into single elements and into sevens, a large one
whose tensors are longer than two leaves (65,536 elements each) and are cut into 65,537, and a
pool that is read through LoRA adapters. Every tensor has odd lengths, so that a vector of the
processor never ends where a row does, and many exact ties, so that quotas matter.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from cermet import api
from cermet.core.registry import all_methods

Shapes = Mapping[str, tuple[int, ...]]

TINY: Shapes = {
    "model.embed_tokens.weight": (5, 17),
    "model.layers.0.input_layernorm.weight": (17,),
    "model.layers.0.self_attn.q_proj.weight": (7, 17),
    "model.layers.0.self_attn.k_proj.weight": (9, 1),
    "model.layers.1.input_layernorm.weight": (17,),
    "model.layers.1.self_attn.q_proj.weight": (7, 17),
    "model.layers.1.self_attn.k_proj.weight": (9, 1),
    "model.norm.weight": (1,),
    "lm_head.weight": (5, 17),
}
LARGE: Shapes = {
    "model.embed_tokens.weight": (265, 497),
    "model.layers.0.mlp.up_proj.weight": (44_003, 3),
    "model.layers.1.mlp.up_proj.weight": (3, 44_003),
    "model.norm.weight": (131_101,),
}
ADAPTED = "model.layers.0.self_attn.q_proj"


@dataclass(frozen=True)
class Form:
    """A method with parameters under which all of its code runs."""

    method: str
    experts: int = 3
    base: bool = True
    shared: Mapping[str, Any] = field(default_factory=dict)
    weights: tuple[float, ...] | None = (0.7, -0.4, 1.3, 0.2, 0.9)

    @property
    def label(self) -> str:
        """A name for the test's report."""
        words = [f"{k}={v}" for k, v in self.shared.items()]
        words += [] if self.base else ["nobase"]
        return "-".join([self.method, str(self.experts), *words])


FORMS = (
    Form("arcee_fusion", 1, weights=None),
    Form("breadcrumbs", shared={"density": 0.6, "gamma": 0.05, "rescale": True}),
    Form("breadcrumbs", shared={"density": 0.3, "normalize": True, "lambda": 0.7}),
    Form("breadcrumbs_ties", shared={"density": 0.6, "gamma": 0.05, "rescale": True}),
    Form("dare_linear", shared={"density": 0.4, "normalize": True}),
    Form("dare_linear", shared={"density": 0.4, "rescale": False}),
    Form("dare_ties", shared={"density": 0.4}),
    Form("della", shared={"density": 0.5, "epsilon": 0.2}),
    Form("della_linear", shared={"density": 0.5, "epsilon": 0.2}),
    Form("emr", 3, weights=None),
    Form("emr", 2, weights=None, shared={"by_tensor": False}),
    Form("frank", 2, weights=None, shared={"decay": 0.5}),
    Form("karcher", 3, base=False, weights=None),
    Form("karcher", 5, base=False, weights=None),
    Form("linear", base=False),
    Form("linear", 5, base=False, shared={"normalize": False}),
    Form("model_stock", 3, weights=None),
    Form("model_stock", 5, weights=None),
    Form("model_stock", 3, weights=None, shared={"filter_wise": True}),
    Form("multislerp", 3),
    Form("multislerp", 5, base=False),
    Form("nearswap", 1, weights=None, shared={"t": 0.003}),
    Form("nuslerp", 2, base=False, weights=(0.6, 0.4)),
    Form("nuslerp", 2, weights=(0.6, 0.4), shared={"nuslerp_flatten": False}),
    Form(
        "nuslerp", 2, weights=(0.6, 0.4),
        shared={"nuslerp_flatten": False, "nuslerp_row_wise": True},
    ),
    Form(
        "nuslerp", 2, base=False, weights=(0.6, 0.4),
        shared={"nuslerp_flatten": False, "nuslerp_row_wise": True},
    ),
    Form("passthrough", 1, base=False, weights=None),
    Form("passthrough", 1, base=False, weights=None, shared={"scale": 0.3}),
    Form("ram", weights=None, shared={"epsilon": 0.002}),
    Form("ramplus_tl", weights=None, shared={"epsilon": 0.002, "r": 0.5}),
    Form("sce", weights=None, shared={"select_topk": 0.4}),
    Form("sce", weights=None),
    Form("slerp", 1, weights=None, shared={"t": 0.37}),
    Form("tall_mask", 3, weights=None),
    Form("tall_mask_ties", 3, weights=None),
    Form("task_arithmetic", shared={"lambda": 0.8}),
    Form("task_arithmetic", 5, shared={"normalize": True}),
    Form("ties", shared={"density": 0.5}),
    Form("ties", 5, shared={"density": 0.2, "rescale": True, "lambda": 1.1}),
    Form("breadcrumbs_official", weights=None, shared={"density": 0.6, "gamma": 0.1}),
    Form("consensus_ta", weights=None),
    Form("consensus_ties", weights=None, shared={"density": 0.5}),
    Form("dare_magnitude", shared={"density": 0.4}),
    Form("dare_official", shared={"density": 0.4}),
    Form("della_official", shared={"density": 0.5, "epsilon": 0.2}),
    Form("layer_swapping", 2, base=False, weights=None, shared={"bottom": 1, "top": 0}),
    Form("lines", shared={"beta": 0.5}),
    Form("lm_cocktail", base=False, weights=None, shared={"loss": 1.5}),
    Form("led_merging", shared={"density": 0.5}),
    Form("localize_and_stitch", weights=None, shared={"density": 0.3}),
    Form("localize_and_stitch", weights=None, shared={"density": 0.3, "layers_only": False}),
    Form("metagpt", weights=None),
    Form("pcb_merging", shared={"density": 0.3}),
    Form("pcb_merging_es", shared={"density": 0.3}),
    Form("rht", shared={"density": 0.4, "frequency": True}),
    Form("sce_official", weights=None, shared={"select_topk": 0.4}),
    Form("shadow_ft", weights=None),
    Form("ties_max", weights=None, shared={"density": 0.3}),
    Form("ties_official", weights=None, shared={"density": 0.3}),
    Form("ties_sv", weights=None, shared={"density": 0.3, "slack": 0.004}),
    Form("twin_merging", 2, weights=None, shared={"density": 0.5}),
    Form("varm", weights=None),
    Form("widen", weights=None),
    Form("tsv_m", 3, weights=None),
    Form("tsv_m", 2, weights=None, shared={"vocabulary": "spectral"}),
    Form("iso_c", 3, weights=None),
    Form("iso_cts", 2, weights=None, shared={"common": 0.6}),
    Form("doge_ta", 3, weights=None, shared={"steps": 5, "vocabulary": "spectral"}),
    Form("drm_h", 3, weights=None, shared={"others_density": 0.5}),
    Form("drm_v", 2, weights=None),
    Form("knots_ties", 3, weights=None, shared={"density": 0.3}),
    Form("knots_dare", 2, weights=None, shared={"keep": 0.5, "density": 0.5}),
    Form("knots_dare_ties", 2, weights=None, shared={"keep": 0.5}),
    Form("opcm", 3, weights=None),
    Form("optmerge", 2, weights=None, shared={"steps": 5}),
    Form("optmerge_lora", 3, weights=None),
    Form("r_tsvm", 2, weights=None),
    Form("rmm", 3, weights=None, shared={"directions": 1}),
    Form("stf", 3, weights=None, shared={"density": 0.4}),
    Form("swudi", 3, weights=None),
    Form("wudi", 3, weights=None, shared={"steps": 5, "others": "base"}),
    Form("wsm", 4, base=False, weights=None, shared={"schedule": "cosine"}),
)  # fmt: skip


def _tensors(shapes: Shapes, seed: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Weights near those of seed 0; in every other tensor the deltas take five values only."""
    start, own = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    found = {}
    for place, (name, shape) in enumerate(shapes.items()):
        base = torch.randn(shape, generator=start) * 0.05
        if seed == 0:
            found[name] = base.to(dtype)
            continue
        delta = torch.randn(shape, generator=own) * 0.01
        if place % 2:
            base = base.mul(64).round().div(64)  # so that the ties survive the subtraction
            delta = delta.mul(128).round().clamp(-2, 2).div(128)
        found[name] = (base + delta).to(dtype)
    for place, (name, value) in enumerate(found.items()):
        if place % 2 and seed == 0:
            found[name] = value.float().mul(64).round().div(64).to(dtype)
    return found


def _save(folder: Path, shapes: Shapes, seed: int, dtype: torch.dtype) -> str:
    folder.mkdir(parents=True)
    save_file(_tensors(shapes, seed, dtype), folder / "model.safetensors")
    layers = {int(n.split(".")[2]) for n in shapes if ".layers." in n}
    config = {"model_type": "llama", "num_hidden_layers": len(layers)}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    return str(folder)


def _adapter(folder: Path, shape: tuple[int, ...], seed: int) -> str:
    """A LoRA adapter of rank 4 for one matrix."""
    folder.mkdir(parents=True)
    own = torch.Generator().manual_seed(seed)
    rows, columns = shape
    factors = {
        f"base_model.model.{ADAPTED}.lora_A.weight": torch.randn(4, columns, generator=own) * 0.1,
        f"base_model.model.{ADAPTED}.lora_B.weight": torch.randn(rows, 4, generator=own) * 0.1,
    }
    save_file(factors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    return str(folder)


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[str]]:
    """The paths of a pool's base and five experts, written when first asked for."""
    root = tmp_path_factory.mktemp("pools")
    written: dict[str, list[str]] = {}
    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}

    def pool(name: str) -> list[str]:
        if name not in written:
            size, dtype = name.split("-")
            shapes = {"tiny": TINY, "large": LARGE, "lora": TINY}[size]
            if size == "lora":
                shapes = {**TINY, f"{ADAPTED}.weight": (401, 333)}
            paths = [_save(root / name / str(i), shapes, i, dtypes[dtype]) for i in range(6)]
            if size == "lora":
                adapters = [_adapter(root / name / f"a{i}", (401, 333), i) for i in range(1, 6)]
                paths = [paths[0], *(f"{paths[0]}+{a}" for a in adapters)]
            for i in range(1, 6):  # beside the models, for methods that need statistics
                _save(root / name / f"s{i}", shapes, 10 + i, torch.float32)
            written[name] = paths
        return written[name]

    return pool


def _recipe(form: Form, paths: list[str]) -> dict[str, Any]:
    models = []
    for i, path in enumerate(paths[1 : 1 + form.experts]):
        own = {} if form.weights is None else {"weight": form.weights[i]}
        models.append({"model": path, "parameters": own})
        folder = Path(path.partition("+")[0]).parent
        for need in all_methods()[form.method].needs:
            statistic = str(folder / f"s{i % 5 + 1}")
            models[-1].setdefault("needs", {})[need.name] = statistic
    recipe = {"merge_method": form.method, "models": models, "parameters": dict(form.shared)}
    return {**recipe, "base_model": paths[0], "seed": 7} if form.base else {**recipe, "seed": 7}


def _digests(recipe: Mapping[str, Any], out: Path, **options: Any) -> dict[str, str]:
    """Digests of what a run has written, tensor by tensor."""
    api.merge(recipe, out, **options)
    found = {
        name: hashlib.sha256(tensor.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
        for name, tensor in api.open(out).items()
    }
    for file in sorted(out.glob("*.safetensors")):  # with what is kept of the experts
        found[file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def _run(recipe: Mapping[str, Any], out: Path, kernels: bool = True, **options: Any) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CERMET_NATIVE", "1" if kernels else "0")
        return _digests(recipe, out, **options)


def _hold(recipe: Mapping[str, Any], out: Path, ways: Mapping[str, Mapping[str, Any]]) -> None:
    """Every way of running the recipe gives the bytes of one thread and default blocks."""
    expected = _digests(recipe, out / "expected", threads=1)
    for way, options in ways.items():
        found = _run(recipe, out / way.replace(" ", "-"), **options)
        differ = [name for name, digest in expected.items() if found[name] != digest]
        assert not differ, f"{recipe['merge_method']}, {way}: other bytes in {differ}"


SMALL_WAYS: Mapping[str, Mapping[str, Any]] = {
    "cuts of 1": {"threads": 1, "block": 1},
    "cuts of 7": {"threads": 1, "block": 7},
    "two threads": {"threads": 2, "block": 50},
    "torch alone": {"threads": 1, "kernels": False},
}
LARGE_WAYS: Mapping[str, Mapping[str, Any]] = {
    "cuts of 65537": {"threads": 1, "block": 65_537},
    "two processes and small cuts": {"threads": 2, "block": 10_007, "executor": "processes"},
    "64 MB": {"threads": 2, "memory": 64_000_000},
    "torch alone": {"threads": 1, "kernels": False},
    "2 GB": {"threads": 2, "memory": 2_000_000_000},
}
_DTYPES = ("bf16", "fp16", "fp32")
_by_form = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.label)
pytestmark = pytest.mark.usefixtures("unchecked")


def _dtyped(shift: int) -> pytest.MarkDecorator:
    """Every form in one dtype, in turns; the two others are for `make test-all`."""
    cases = [
        pytest.param(
            form, dtype, id=f"{dtype}-{form.label}",
            marks=() if (place + shift) % len(_DTYPES) == number else pytest.mark.slow,
        )
        for place, form in enumerate(FORMS)
        for number, dtype in enumerate(_DTYPES)
    ]  # fmt: skip
    return pytest.mark.parametrize(("form", "dtype"), cases)


def test_every_method_has_a_form() -> None:
    """A new method must say here with which parameters it is held to this."""
    square = {n for n, m in all_methods().items() if any(need.square for need in m.needs)}
    assert {form.method for form in FORMS} >= set(all_methods()) - square  # 20 GB of the large pool


@_dtyped(0)
def test_small_cuts(
    form: Form, dtype: str, pools: Callable[[str], list[str]], tmp_path: Path
) -> None:
    """Cuts of 1 and of 7 elements."""
    _hold(_recipe(form, pools(f"tiny-{dtype}")), tmp_path, SMALL_WAYS)


@_dtyped(1)
def test_large_cuts(
    form: Form, dtype: str, pools: Callable[[str], list[str]], tmp_path: Path
) -> None:
    """Cuts of 65,537 elements; two threads with budgets of 64 MB and 2 GB; two processes."""
    _hold(_recipe(form, pools(f"large-{dtype}")), tmp_path, LARGE_WAYS)


@_by_form
def test_adapters(form: Form, pools: Callable[[str], list[str]], tmp_path: Path) -> None:
    """The same where the experts are LoRA adapters on the base."""
    recipe = _recipe(form, pools("lora-bf16"))
    ways = {"cuts of 997": {"threads": 1, "block": 997}, "65537": {"threads": 2, "block": 65_537}}
    _hold(recipe, tmp_path, ways)
