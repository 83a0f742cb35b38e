"""`.bin` files that hold more than tensors: refused, and none of their code is run.

Code that ran would leave a file or folder beside the pool, which `refused` would see.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from cermet.core.errors import FormatError
from tests.reliability.malformed import WEIGHTS, Case, Pool, Q, cases, each, refused, sound

FILE, BIN = f"a/{WEIGHTS}", "a/pytorch_model.bin"
Spoil = Callable[[Pool], object]


class _Call:
    """Pickles as a call that writes a file into the folder where the pool lies."""

    def __init__(self, call: Callable[..., Any], *given: Any) -> None:
        self.call, self.given = call, given

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, self.given


def _pickled(make: Callable[[Path], Any], zipped: bool = True) -> Spoil:
    """A `.bin` of what `make` gives; it is given a path that must not come to be."""

    def act(pool: Pool) -> None:
        pool.remove(FILE)
        content = make(pool.root / "ran")
        torch.save(content, pool.root / BIN, _use_new_zipfile_serialization=zipped)

    return act


def _raw_bin(content: bytes) -> Spoil:
    return lambda pool: (pool.remove(FILE), pool.write(BIN, content))


def _table(name: object, value: object) -> Callable[[Path], Any]:
    return lambda _: {**sound(1), name: value}


CASES: list[Case] = cases(
    "pickles",
    FormatError,
    BIN,
    {
        "system": _pickled(lambda ran: {Q: _Call(os.system, f"touch '{ran}'")}),
        "system, old format": _pickled(
            lambda ran: {Q: _Call(os.system, f"touch '{ran}'")}, zipped=False
        ),
        "mkdir beside tensors": _pickled(lambda ran: {**sound(1), "x": _Call(os.mkdir, str(ran))}),
        "as a whole": _pickled(lambda ran: _Call(os.mkdir, str(ran))),
        "as a key": _pickled(lambda ran: {_Hashed(os.mkdir, str(ran)): torch.ones(1)}),
        "eval": _pickled(lambda ran: {Q: _Call(eval, f"open({str(ran)!r}, 'w')")}),
        "exec": _pickled(lambda ran: {Q: _Call(exec, f"open({str(ran)!r}, 'w')")}),
        "getattr": _pickled(lambda ran: {Q: _Call(getattr, "text", "upper")}),
        "open": _pickled(lambda ran: {Q: _Call(open, str(ran), "w")}),
        "bare pickle": _raw_bin(b"cos\nsystem\n(S'touch ran'\ntR."),
        "a list": _pickled(lambda _: [torch.ones(2)]),
        "a tensor": _pickled(lambda _: torch.ones(2)),
        "a number in it": _pickled(_table("steps", 7)),
        "a name that is a number": _pickled(_table(7, torch.ones(2))),
        "a stride of zero": _pickled(_table("wide", torch.ones(1).expand(1 << 40))),
        "complex numbers": _pickled(_table(Q, torch.ones(4, 4, dtype=torch.complex64))),
        "sparse": _pickled(_table(Q, torch.eye(4).to_sparse())),
        "no memory": _pickled(_table(Q, torch.ones(4, 4, device="meta"))),
        "empty": _raw_bin(b""),
        "text": _raw_bin(b"weights"),
        "an empty archive": _raw_bin(b"PK\x05\x06" + bytes(18)),
        "deep pickle": _raw_bin(b"\x80\x02" + b"(" * 100_000 + b"."),
        "large on paper": _raw_bin(b"\x80\x04\x8e" + (1 << 62).to_bytes(8, "little") + b"x."),
    },
)


class _Hashed(_Call):
    """The same, as the key of a table."""


@each(CASES)
def test_is_refused(case: Case, tmp_path: Path) -> None:
    refused(case, tmp_path)
