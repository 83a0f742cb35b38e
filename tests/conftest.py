"""What every test shares: checked shapes, a `merge` for docstrings, hypothesis without a clock."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
from hypothesis import settings

import tests.checked  # noqa: F401 - named below

# Where tests run side by side, threads that wait for work in a loop keep the others from it. It has
# to stand before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# The shapes in these rooms' signatures are checked at every call. It has to stand before the
# first import of cermet. Other rooms annotate with protocols, which beartype cannot check.
jaxtyping.install_import_hook(
    ["cermet.maths", "cermet.methods", "cermet.codecs", "cermet.inference", "cermet.evaluate"],
    "tests.checked.checked",
)

import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

# The tensors here are small and the tests run side by side: a second thread would only wait for
# a core. A test that is about threads asks for them.
torch.set_num_threads(1)

settings.register_profile("quick", deadline=None, derandomize=True, max_examples=40)
settings.register_profile("thorough", deadline=None, derandomize=True, max_examples=100)
settings.load_profile(os.environ.get("CERMET_TESTS", "quick"))


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Without the checks of shapes, which take half of the time of a test that makes thousands of
    calls; other tests make the same calls with them.
    """
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


Numbers = Sequence[Any]


def _merge(method: str, base: Numbers | None, experts: Sequence[Numbers], **parameters: Any) -> Any:
    """`cermet.merge_tensors` on one tensor, from lists to a list rounded to four digits."""
    from cermet import merge_tensors

    models = [{"x": torch.tensor(e, dtype=torch.float32)} for e in experts]
    if "noise" in parameters:
        parameters["noise"] = {"x": torch.tensor(parameters["noise"], dtype=torch.float32)}
    if "needs" in parameters:
        parameters["needs"] = {k: _statistic(v) for k, v in parameters["needs"].items()}
    given = None if base is None else {"x": torch.tensor(base, dtype=torch.float32)}
    merged = merge_tensors(method, given, models, **parameters)["x"].double()
    rounded = (merged * 1e4).round() / 1e4 + 0.0  # no negative zeros
    return rounded.tolist()


def _merge_lora(method: str, adapters: Sequence[tuple[Numbers, Numbers]], **parameters: Any) -> Any:
    """`cermet.merge_adapters` on one module, from lists of A and B to the delta, rounded."""
    from cermet import merge_adapters

    given = [
        (
            {
                f"x.lora_{n}.weight": torch.tensor(f, dtype=torch.float32)
                for n, f in zip("AB", pair, strict=True)
            },
            {"peft_type": "LORA", "r": len(pair[0]), "lora_alpha": len(pair[0])},
        )
        for pair in adapters
    ]
    found, config = merge_adapters(method, given, **parameters)
    scale = config["lora_alpha"] / config["r"]
    delta = scale * found["x.lora_B.weight"].double() @ found["x.lora_A.weight"].double()
    return ((delta * 1e4).round() / 1e4 + 0.0).tolist()


def _statistic(values: Numbers) -> Any:
    """A statistic of one tensor: a list for each expert, or one list for all."""
    several = isinstance(values[0], Sequence)
    held = [{"x": torch.tensor(v, dtype=torch.float32)} for v in (values if several else [values])]
    return held if several else held[0]


def _compress(codec: str, base: Numbers, expert: Numbers, **parameters: Any) -> Any:
    """One tensor compressed and restored on disk, from lists to a list rounded to four digits."""
    import cermet

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for model, values in (("base", base), ("expert", expert)):
            (folder / model).mkdir()
            tensor = torch.tensor(values, dtype=torch.float32)
            save_file({"layers.0.q_proj.weight": tensor}, folder / model / "model.safetensors")
        models = folder / "base", folder / "expert"
        cermet.compress(*models, folder / "delta", codec=codec, **parameters)
        cermet.restore(folder / "delta", folder / "out")
        restored = cermet.open(folder / "out")["layers.0.q_proj.weight"].double()
        return ((restored * 1e4).round() / 1e4 + 0.0).tolist()


@pytest.fixture(scope="session")
def merge() -> Any:
    """What the Example sections of methods call `merge`."""
    return _merge


@pytest.fixture(scope="session")
def merge_lora() -> Any:
    """What the Example sections of methods on adapters call `merge_lora`."""
    return _merge_lora


@pytest.fixture(autouse=True)
def _namespace(doctest_namespace: dict[str, Any]) -> None:
    """The names that doctests may use."""
    doctest_namespace["merge"] = _merge
    doctest_namespace["compress"] = _compress
    doctest_namespace["merge_lora"] = _merge_lora


@pytest.fixture(scope="session")
def llamas(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Language models that know cats, dogs and neither; tests only read them."""
    from tests.learn.pools import write_llamas

    return write_llamas(tmp_path_factory.mktemp("llamas"))


@pytest.fixture(scope="session")
def berts(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two classifiers, of which one tells cats from dogs; tests only read them."""
    from tests.learn.pools import write_berts

    return write_berts(tmp_path_factory.mktemp("berts"))
