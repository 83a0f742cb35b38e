"""Every method is held to the outputs of the authors' own code, or of mergekit 0.1.5.

Files that are not there are a failure, never a skip: a checkout without the golden data has
not been tested.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

import cermet
from cermet.core.registry import all_factor_methods, all_methods
from tests.golden.adapt import golden_folder, load, ours, run
from tests.golden.by_codecs import BY_CODECS

NOT_YET = {
    "arrow", "arrow_gks", "fisher_merging", "git_rebasin", "hi_merging", "mc_smoe",
    "model_stock_mergellm", "otfusion",
    "zipit",
}  # fmt: skip
"""Golden methods that are not in the registry yet; some of their files are ours all the same.

hi_merging stays: its files are recipes of ties.
"""

_METHODS = {*all_methods(), *all_factor_methods(), *BY_CODECS}

FOLDER = golden_folder()
FILES = sorted(FOLDER.glob("*.safetensors"))
OURS = [path for path in FILES if ours(load(path))]
RECIPES = [path for path in OURS if load(path).recipe is not None]


def _stem(path: Path) -> str:
    return path.stem


# An adapter's factors are free in their signs: test_codecs.py compares their product.
_every_file = pytest.mark.parametrize(
    "path", [path for path in OURS if load(path).method != "lora_extract"], ids=_stem
)


def _expected(path: Path) -> dict[str, Tensor]:
    with safe_open(path, "pt") as file:
        names = [k for k in file.keys() if k.startswith("out/")]  # noqa: SIM118
        return {name.removeprefix("out/"): file.get_tensor(name) for name in names}


def _rows() -> dict[str, list[str]]:
    """The table of GOLDEN.md: method -> its other columns."""
    text = (FOLDER / "GOLDEN.md").read_text("utf-8") if FILES else ""
    cells = [
        [c.strip() for c in r.strip("|").split("|")] for r in re.findall(r"^\|.*\|$", text, re.M)
    ]
    return {row[0]: row[1:] for row in cells[2:]}


def _atol(method: str) -> float:
    found = re.match(r"\d+e-\d+", _rows()[method][-1])
    return float(found[0]) if found is not None else 2e-6


def _products(factors: dict[str, Tensor]) -> dict[str, Tensor]:
    """B @ A by module."""
    ends = (".lora_A.weight", ".lora_B.weight")
    modules = {name.removesuffix(ends[0]) for name in factors if name.endswith(ends[0])}
    return {m: factors[m + ends[1]] @ factors[m + ends[0]] for m in sorted(modules)}


def test_the_golden_data_is_here() -> None:
    assert FILES, (
        f"There is no golden data in '{FOLDER}'. Put the folder `shared` beside the repository, "
        "or name the golden folder with CERMET_GOLDEN."
    )
    counts = {method: int(row[0]) for method, row in _rows().items()}
    found = {method: sum(p.stem.rpartition("-")[0] == method for p in FILES) for method in counts}
    assert found == counts


def test_methods_that_are_not_here_yet() -> None:
    """Whoever adds a method takes it off the list, and is then held to its files."""
    golden = {load(path).method for path in FILES}
    assert golden - _METHODS == NOT_YET
    assert set() == _METHODS & NOT_YET


def test_every_method_of_ours_with_golden_data_is_held_to_all_of_it() -> None:
    assert {p for p in FILES if load(p).method in _METHODS} <= set(OURS)
    assert "hi_merging" in {load(path).method for path in OURS}
    assert "model_stock_mergellm" in {load(path).method for path in OURS}


@_every_file
def test_float32(path: Path) -> None:
    found, expected = run(path), _expected(path)
    assert found.keys() == expected.keys()
    atol = _atol(load(path).method)
    if load(path).method.endswith("_svd") or load(path).method == "lora_svd":
        found, expected, atol = _products(found), _products(expected), 1e-5  # signs are free
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=0, atol=atol, msg=lambda m, n=name: n + m
        )


@pytest.mark.parametrize("path", RECIPES, ids=_stem)
def test_bfloat16_is_rounded_once(path: Path) -> None:
    """bfloat16 models give the bits of their float32 merge, rounded."""
    reference = run(path, models=torch.bfloat16, out=torch.float32)
    found = run(path, models=torch.bfloat16, out=torch.bfloat16)
    assert found.keys() == reference.keys() == _expected(path).keys()
    for name, value in reference.items():
        assert value.dtype == torch.float32
        assert found[name].dtype == torch.bfloat16
        assert torch.equal(found[name], value.bfloat16())


def test_other_methods_are_refused_by_name() -> None:
    other = next(path for path in FILES if not ours(load(path)))
    with pytest.raises(cermet.MethodError, match=re.escape(load(other).method)):
        run(other)
