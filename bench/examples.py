"""The examples of docstrings, spelled out for readers who have only `cermet` and `torch`."""

from __future__ import annotations

import ast
import doctest
from collections.abc import Sequence
from typing import Any

__all__ = ["adapter_call", "by_hand", "tensor_call"]


def tensor_call(lines: Sequence[str]) -> list[str]:
    """The docstring's example, spelled out as a call of `cermet.merge_tensors`."""
    *before, found = doctest.DocTestParser().get_examples("\n".join(lines))
    call = ast.parse(found.source, mode="eval").body
    assert isinstance(call, ast.Call)
    name, base, experts = (ast.unparse(a).replace("'", '"') for a in call.args)
    given = {k.arg: ast.unparse(k.value).replace("'", '"') for k in call.keywords}
    lines = [
        ">>> import cermet, torch",
        f">>> base = {'None' if base == 'None' else _tensor(base)}",
        *_experts(experts),
    ]
    if "noise" in given:
        lines.append(f">>> noise = {_tensor(given['noise'])}")
        given["noise"] = "noise"
    if "needs" in given:
        lines += _statistics(given["needs"])
        given["needs"] = "needs"
    spelled = "".join(f", {name}={value}" for name, value in given.items())
    return [
        *lines,
        *(f">>> {line}" for step in before for line in step.source.splitlines()),
        *_called(f"{name}, base, experts{spelled}"),
        _shown(found.want),
        *found.want.splitlines(),
    ]


def adapter_call(lines: Sequence[str]) -> list[str]:
    """The docstring's example, spelled out as a call of `cermet.merge_adapters`."""
    (found,) = doctest.DocTestParser().get_examples("\n".join(lines))
    call = ast.parse(found.source, mode="eval").body
    assert isinstance(call, ast.Call)
    name, pairs = (ast.literal_eval(a) for a in call.args)
    spelled = "".join(f", {k.arg}={ast.unparse(k.value)}" for k in call.keywords)
    lines = [">>> import cermet, torch", ">>> adapters = ["]
    for a, b in pairs:
        held = [
            f'...             "x.lora_{side}.weight": torch.tensor({_floats(rows)}),'
            for side, rows in (("A", a), ("B", b))
        ]
        config = f'{{"peft_type": "LORA", "r": {len(a)}, "lora_alpha": {len(a)}}}'
        lines += ["...     (", "...         {", *held, "...         },"]
        lines += [f"...         {config},", "...     ),"]
    return [
        *lines,
        "... ]",
        *_called(f'"{name}", adapters{spelled}', "merged, config = cermet.merge_adapters"),
        '>>> scale = config["lora_alpha"] / config["r"]',
        '>>> delta = scale * merged["x.lora_B.weight"] @ merged["x.lora_A.weight"]',
        ">>> [[round(x, 4) + 0.0 for x in row] for row in delta.tolist()]",
        *found.want.splitlines(),
    ]


def _experts(values: str) -> list[str]:
    """The experts of an example, on three lines where one would be too long for the formatter."""
    each = f'{{"x": torch.tensor(x, dtype=torch.float32)}} for x in {values}'
    line = f">>> experts = [{each}]"
    return [line] if len(line) <= 104 else [">>> experts = [", f"...     {each}", "... ]"]


def _shown(want: str) -> str:
    """What shows the merged tensor, a vector or a matrix."""
    row = "[round(x, 4) for x in {}]"
    if want.startswith("[["):
        inner = row.format("row")
        return f'>>> [{inner} for row in merged["x"].tolist()]'
    return ">>> " + row.format('merged["x"].tolist()')


def _statistics(needs: str) -> list[str]:
    """The statistics of an example, as tensors by name."""
    found = [">>> needs = {"]
    for name, value in ast.literal_eval(needs).items():
        several = isinstance(value[0], list)
        rows = value if several else [value]
        each = [_tensor(str(_deep(row))) for row in rows]
        if several:
            each = ["[", *(f"    {one}," for one in each), "]"]
        first, *rest = each
        held = [f'"{name}": {first}', *rest]
        found += [f"...     {line}" for line in (*held[:-1], f"{held[-1]},")]
    return [*found, "... }"]


def _deep(values: Any) -> Any:
    """Numbers in lists, however deep, as floats."""
    return [_deep(v) for v in values] if isinstance(values, list) else float(values)


def _floats(rows: Sequence[Sequence[float]]) -> list[list[float]]:
    return [[float(x) for x in row] for row in rows]


def _called(arguments: str, function: str = "merged = cermet.merge_tensors") -> list[str]:
    """The call, on three lines where one would be too long for the formatter."""
    line = f"{function}({arguments})"
    if len(line) <= 100:
        return [f">>> {line}"]
    return [f">>> {function}(", f"...     {arguments}", "... )"]


def _tensor(values: str) -> str:
    return f'{{"x": torch.tensor({values})}}'


def by_hand(lines: Sequence[str]) -> list[str]:
    """The docstring's example: base, expert, and what is restored."""
    (found,) = doctest.DocTestParser().get_examples("\n".join(lines))
    asked = ast.parse(found.source, mode="eval").body
    assert isinstance(asked, ast.Call)
    _, base, expert = map(ast.unparse, asked.args)
    given = ", ".join(f"{k.arg} {ast.unparse(k.value)}" for k in asked.keywords)
    return [
        f"base      {base}",
        f"expert    {expert}",
        f"restored  {found.want.strip()}" + (f"  with {given}" if given else ""),
    ]
