"""LoRA adapters that are damaged or do not fit, met in a merge: the adapter's file is named.

`tests/checkpoints/test_lora_refused.py` goes through the rules one by one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cermet.core.errors import FormatError, MismatchError, NonFiniteError
from tests.reliability.malformed import Case, Pool, Q, bounded, cases, each, refused

Spoil = Callable[[Pool], object]
CONFIG, FILE = "adapter/adapter_config.json", "adapter/adapter_model.safetensors"
_MODULE = f"base_model.model.{Q.removesuffix('.weight')}"
A, B = f"{_MODULE}.lora_A.weight", f"{_MODULE}.lora_B.weight"
NAN, INF = float("nan"), float("inf")


def _config(content: bytes | str) -> Spoil:
    return lambda pool: (pool.adapter(), pool.write(CONFIG, content))


def _set(**changes: Any) -> Spoil:
    """Change the configuration."""

    def act(pool: Pool) -> None:
        pool.adapter()
        sound = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
        pool.write(CONFIG, {**sound, **changes})

    return act


def _tensors(**changes: torch.Tensor | None) -> Spoil:
    """Change factors a and b, or add tensors beside them."""

    def act(pool: Pool) -> None:
        pool.adapter()
        names = {"a": A, "b": B}
        values = {k: v.clone() for k, v in load_file(pool.root / FILE).items()}
        values |= {names.get(k, f"{_MODULE}.{k}"): v for k, v in changes.items()}
        save_file({k: v for k, v in values.items() if v is not None}, pool.root / FILE)

    return act


def _file(change: Callable[[bytes], bytes]) -> Spoil:
    def act(pool: Pool) -> None:
        pool.adapter()
        pool.write(FILE, change((pool.root / FILE).read_bytes()))

    return act


class _Call:
    """Pickles as a call that makes a folder in the pool's."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def _pickle(pool: Pool) -> None:
    pool.adapter()
    pool.remove(FILE)
    torch.save({A: _Call(pool.root / "ran")}, pool.root / "adapter/adapter_model.bin")


def _spoilt(factor: str, place: int, value: float, dtype: torch.dtype) -> Spoil:
    shape = {"a": (2, 4), "b": (4, 2)}[factor]
    values = torch.ones(shape, dtype=dtype)
    values.view(-1)[place] = value
    return _tensors(**{factor: values})


CONFIGS = cases(
    "adapters with a bad configuration",
    FormatError,
    CONFIG,
    {
        "missing": lambda pool: (pool.adapter(), pool.remove(CONFIG)),
        "empty": _config(b""),
        "no JSON": _config("peft_type: LORA"),
        "cut short": _config('{"peft_type": "LO'),
        "list": _config("[]"),
        "not UTF-8": _config(b'{"peft_type": "\xff"}'),
        "key twice": _config('{"peft_type": "LORA", "r": 2, "r": 4}'),
        "nested deep": _config('{"r":' * 100_000),
        "no type": _set(peft_type=None),
        "type number": _set(peft_type=1),
        "lower case": _set(peft_type="lora"),
        "IA3": _set(peft_type="IA3"),
        "prompt tuning": _set(peft_type="PROMPT_TUNING"),
        "type of tomorrow": _set(peft_type="NOVEL"),
        "rank zero": _set(r=0),
        "rank negative": _set(r=-2),
        "rank fraction": _set(r=2.5),
        "rank truth": _set(r=True),
        "rank word": _set(r="two"),
        "alpha word": _set(lora_alpha="four"),
        "alpha infinite": _set(lora_alpha=INF),
        "alpha not a number": _set(lora_alpha=NAN),
        "flag word": _set(use_rslora="no"),
        "pattern list": _set(rank_pattern=["q_proj"]),
        "pattern open": _set(rank_pattern={"q_proj(": 4}),
        "pattern without end": _set(rank_pattern={"(([a-z._0-9]*)*)*x": 4}),
        "pattern without end, counted": _set(alpha_pattern={"((.+){1,9}){1,9}x": 4}),
        "pattern of many stars": _set(alpha_pattern={".*.*.*.*.*.*.*.*.*.*.*.*x": 4}),
        "pattern of 100 kB": _set(alpha_pattern={"q" * 100_000: 4}),
    },
)

WEIGHTS = [
    *cases(
        "adapters with bad weights",
        FormatError,
        FILE,
        {
            "empty": _file(lambda raw: b""),
            "cut short": _file(lambda raw: raw[:-8]),
            "longer": _file(lambda raw: raw + b"\0"),
            "header flipped": _file(lambda raw: raw[:9] + b"\xff" + raw[10:]),
            "no A": _tensors(a=None),
            "no B": _tensors(b=None),
            "neither": _tensors(a=None, b=None),
            "a part of tomorrow": _tensors(lora_C=torch.ones(2)),
        },
    ),
    *cases(
        "adapters with bad weights",
        FormatError,
        "/in/adapter",
        {"none": lambda pool: (pool.adapter(), pool.remove(FILE)), "pickled code": _pickle},
    ),
    *cases(
        "adapters with bad weights",
        MismatchError,
        FILE,
        {
            "A of another rank": _tensors(a=torch.ones(3, 4)),
            "B of another rank": _tensors(b=torch.ones(4, 3)),
            "both of another rank": _tensors(a=torch.ones(3, 4), b=torch.ones(4, 3)),
            "rank of another size": _set(r=4),
            "A too wide": _tensors(a=torch.ones(2, 5)),
            "B too long": _tensors(b=torch.ones(5, 2)),
            "A flat": _tensors(a=torch.ones(8)),
            "A scalar": _tensors(a=torch.tensor(1.0)),
            "A and B exchanged": _tensors(a=torch.ones(4, 2), b=torch.ones(2, 4)),
            "of a module that is nowhere": _tensors(
                **{"x.lora_A.weight": torch.ones(2, 4), "x.lora_B.weight": torch.ones(4, 2)}
            ),
        },
    ),
]

POISON = [
    Case(
        "adapters that hold no numbers",
        f"{value} in {factor}, {dtype}, element {place}",
        NonFiniteError,
        (f"'{Q}'", "+", "/in/adapter'"),
        _spoilt(factor, place, value, dtype),
    )
    for factor in ("a", "b")
    for value in (NAN, INF, -INF)
    for dtype, place in (
        (torch.float32, 0), (torch.float32, -1), (torch.bfloat16, 0), (torch.float16, -1),
    )
]  # fmt: skip

CASES: list[Case] = [*CONFIGS, *WEIGHTS, *POISON]


@each(CASES)
def test_is_refused(case: Case, tmp_path: Path) -> None:
    refused(case, tmp_path)


@pytest.mark.parametrize(
    "pattern", ["q_proj", r".*\.layers\.(0|1)\..*q_proj", r"^model\.layers\.\d+\.self_attn\.q_proj"]
)
def test_ordinary_patterns_are_read(pattern: str, tmp_path: Path) -> None:
    """The reverse of the patterns above: what PEFT writes is no attack."""
    from cermet import api

    pool = Pool(tmp_path / "in")
    _set(r=8, rank_pattern={pattern: 2})(pool)
    with bounded():
        api.plan(pool.save_recipe())
