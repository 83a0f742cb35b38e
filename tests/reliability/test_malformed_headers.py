"""Safetensors files that are damaged or lie: a FormatError that names the file and the tensor."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cermet.checkpoints.header import read_header
from cermet.core.errors import FormatError
from tests.reliability.malformed import (
    HEAD,
    WEIGHTS,
    Case,
    Pool,
    Q,
    cases,
    each,
    refused,
)

FILE = f"a/{WEIGHTS}"
LAST = "model.norm.weight"  # in the file
Spoil = Callable[[Pool], object]


def _raw(pool: Pool) -> bytes:
    return (pool.root / FILE).read_bytes()


def _cut(stop: int | None) -> Spoil:
    """Keep the file up to a byte; counted from the end where it is negative."""
    return lambda pool: pool.write(FILE, _raw(pool)[:stop])


def _add(tail: bytes) -> Spoil:
    return lambda pool: pool.write(FILE, _raw(pool) + tail)


def _flip(at: bytes, place: int, bit: int) -> Spoil:
    """Flip a bit of the header, `place` bytes after the start of some words of it."""

    def spoil(pool: Pool) -> None:
        raw = bytearray(_raw(pool))
        raw[raw.index(at) + place] ^= 1 << bit
        pool.write(FILE, bytes(raw))

    return spoil


def _length(value: int) -> Spoil:
    """Let the file say that its header has so many bytes."""
    return lambda pool: pool.write(FILE, value.to_bytes(8, "little") + _raw(pool)[8:])


def _longer(by: int) -> Spoil:
    def spoil(pool: Pool) -> None:
        raw = _raw(pool)
        _length(int.from_bytes(raw[:8], "little") + by)(pool)

    return spoil


def _sparse(length: int, size: int) -> Spoil:
    """A file of holes, so large on paper only."""

    def spoil(pool: Pool) -> None:
        with (pool.root / FILE).open("r+b") as file:
            file.write(length.to_bytes(8, "little"))
            file.truncate(size)

    return spoil


def _large(start: bytes, unit: bytes, end: bytes = b"", size: int = 99_000_000) -> Spoil:
    """A header just under the limit, of one thing many times over."""
    times = (size - len(start) - len(end)) // len(unit)
    return lambda pool: pool.set_header(start + unit * times + end, b"")


def _entry(name: str, **changes: Any) -> Spoil:
    """Change the description of a tensor; a key whose value is `...` is taken out."""

    def spoil(pool: Pool) -> None:
        header, _ = pool.header()
        entry = {**header[name], **changes}
        header[name] = {k: v for k, v in entry.items() if v is not ...}
        pool.set_header(header)

    return spoil


def _spans(*spans: tuple[int, int], size: int) -> Spoil:
    """A file of byte tensors t0, t1, ... with these offsets, over `size` bytes of data."""
    entries = {
        f"t{i}": {"dtype": "U8", "shape": [stop - start], "data_offsets": [start, stop]}
        for i, (start, stop) in enumerate(spans)
    }
    return lambda pool: pool.set_header(entries, bytes(size))


def _renamed(name: str) -> Spoil:
    """Give a tensor a name, as JSON escapes it."""

    def spoil(pool: Pool) -> None:
        text = json.dumps(pool.header()[0])
        assert f'"{HEAD}"' in text
        pool.set_header(text.replace(f'"{HEAD}"', name))

    return spoil


def _text(change: Callable[[str], str | bytes]) -> Spoil:
    return lambda pool: pool.set_header(change(json.dumps(pool.header()[0])))


def _metadata(value: object) -> Spoil:
    return lambda pool: pool.set_header({"__metadata__": value, **pool.header()[0]})


TRUNCATED = cases(
    "truncated",
    FormatError,
    FILE,
    {
        "empty": _cut(0),
        "one byte": _cut(1),
        "half a length": _cut(4),
        "seven bytes": _cut(7),
        "length alone": _cut(8),
        "one byte of header": _cut(9),
        "half a header": _cut(300),
        "no data": lambda pool: pool.set_header(pool.header()[0], b""),
        "half the data": lambda pool: pool.set_header(pool.header()[0], pool.header()[1][:99]),
        "last byte": _cut(-1),
        "last word": _cut(-8),
        "one byte more": _add(b"\0"),
        "one page more": _add(bytes(4096)),
        "twice": lambda pool: pool.write(FILE, _raw(pool) * 2),
    },
)

FLIPPED = cases(
    "flipped bits",
    FormatError,
    FILE,
    {
        "low bit of the length": _length(1 ^ 520),
        "high bit of the length": _length(520 | 1 << 63),
        "opening brace": _flip(b"{", 0, 0),
        "opening quote": _flip(b'"', 0, 1),
        "colon": _flip(b'":{', 1, 2),
        "comma": _flip(b",", 0, 0),
        "key dtype": _flip(b'"dtype"', 1, 0),
        "key shape": _flip(b'"shape"', 1, 4),
        "key data_offsets": _flip(b"data_offsets", 4, 5),
        "a dtype": _flip(b'"F32"', 1, 0),
        "a width": _flip(b'"F32"', 2, 2),
        "a size": _flip(b'"shape":[', 9, 1),
        "an offset": _flip(b'"data_offsets":[', 16, 1),
        "a bracket": _flip(b'"shape":[', 8, 3),
        "beyond ASCII": _flip(b'"F32"', 1, 7),
        "closing brace": _flip(b"}}", 1, 6),
    },
)  # fmt: skip

HUGE = cases(
    "huge sizes",
    FormatError,
    FILE,
    {
        "2^63": _length(1 << 63),
        "2^64 - 1": _length((1 << 64) - 1),
        "2^63 - 8": _length((1 << 63) - 8),
        "2^48": _length(1 << 48),
        "2^32": _length(1 << 32),
        "one more than the file": _longer(100_000),
        "a terabyte of holes": _sparse(1 << 39, 1 << 40),
        "over 100 MB of holes": _sparse(100_000_001, 200_000_000),
        "just under 100 MB of holes": _sparse(99_999_990, 100_000_000),
        "brackets": _large(b"{", b"["),
        "braces": _large(b"", b'{"":'),
        "spaces": _large(b"{", b" "),
        "one name": _large(b'{"', b"x", b'":1}'),
        "one name of wide characters": _large(b'{"\xf0\x9f\x98\x80', b"x", b'":1}'),
        "one name of escapes": _large(b'{"', rb"\ud83d\ude00", b'":1}'),
        "quotes": _large(b"{", b'"'),
        "one list": _large(b'{"x":[', b"0,", b"0]}"),
        "empty lists": _large(b'{"x":[', b"[],", b"0]}"),
        "empty objects": _large(b'{"x":[', b"{},", b"0]}"),
        "one number": _large(b'{"x":', b"9", b"}"),
        "one shape": _large(b'{"x":{"dtype":"U8","shape":[', b"9,", b"9]}}", 6_000_000),
    },
)  # fmt: skip

OFFSETS = cases(
    "lying offsets",
    FormatError,
    (FILE, LAST),
    {
        "beyond the file": _entry(LAST, data_offsets=[1_000_000, 1_000_016]),
        "in the one before": _entry(LAST, data_offsets=[80, 96]),
    },
) + cases(
    "lying offsets",
    FormatError,
    (FILE, HEAD),
    {
        "negative": _entry(HEAD, data_offsets=[-96, 0]),
        "backwards": _entry(HEAD, data_offsets=[96, 0]),
        "too short": _entry(HEAD, data_offsets=[0, 95]),
        "too long": _entry(HEAD, data_offsets=[0, 97]),
        "none": _entry(HEAD, data_offsets=[]),
        "one": _entry(HEAD, data_offsets=[96]),
        "three": _entry(HEAD, data_offsets=[0, 48, 96]),
        "missing": _entry(HEAD, data_offsets=...),
        "null": _entry(HEAD, data_offsets=None),
        "text": _entry(HEAD, data_offsets=["0", "96"]),
        "fractions": _entry(HEAD, data_offsets=[0.0, 96.0]),
        "truth values": _entry(HEAD, data_offsets=[False, True]),
        "an object": _entry(HEAD, data_offsets={"0": 96}),
        "nested": _entry(HEAD, data_offsets=[[0, 96]]),
        "from 2^63": _entry(HEAD, data_offsets=[1 << 63, (1 << 63) + 96]),
        "to 10^4000": _entry(HEAD, data_offsets=[0, 10**4000]),
    },
)

OVERLAPS = [
    *cases(
        "overlaps and gaps",
        FormatError,
        (FILE, "overlaps"),
        {
            "by one byte": _spans((0, 8), (7, 15), size=15),
            "by all": _spans((0, 8), (0, 8), size=8),
            "inside": _spans((0, 8), (2, 4), size=8),
            "at the end": _spans((0, 8), (6, 8), size=8),
            "of three": _spans((0, 8), (8, 16), (12, 20), size=20),
            "not in order": _spans((8, 16), (0, 12), size=16),
            "by an empty one": _spans((0, 8), (4, 4), size=8),
        },
    ),
    *cases(
        "overlaps and gaps",
        FormatError,
        (FILE, "gap"),
        {
            "before the first": _spans((1, 9), size=9),
            "between two": _spans((0, 8), (9, 17), size=17),
            "between many": _spans((0, 2), (2, 4), (5, 7), (7, 9), size=9),
            "far away": _spans((0, 8), (1 << 50, (1 << 50) + 8), size=16),
            "before an empty one": _spans((0, 8), (9, 9), size=9),
        },
    ),
    *cases(
        "overlaps and gaps",
        FormatError,
        (FILE, "end at byte"),
        {
            "after the last": _spans((0, 8), size=9),
            "no tensors": _spans(size=4),
        },
    ),
]

SHAPES = cases(
    "lying shapes",
    FormatError,
    (FILE, HEAD),
    {
        "other rows": _entry(HEAD, shape=[7, 4]),
        "product over 2^64": _entry(HEAD, shape=[1 << 32, 1 << 32, 6, 4]),
        "product that wraps to 24": _entry(HEAD, shape=[(1 << 61) + 3, 8]),
        "2^63": _entry(HEAD, shape=[1 << 63]),
        "digits by the thousand": _entry(HEAD, shape=[10**4000, 10**4000]),
        "nothing, but wide": _entry(HEAD, shape=[0, 1 << 62, 1 << 62], data_offsets=[0, 0]),
        "negative": _entry(HEAD, shape=[-6, -4]),
        "fraction": _entry(HEAD, shape=[6.0, 4]),
        "text": _entry(HEAD, shape="6x4"),
        "number": _entry(HEAD, shape=24),
        "null": _entry(HEAD, shape=None),
        "missing": _entry(HEAD, shape=...),
        "truth": _entry(HEAD, shape=[True, 24]),
        "nested": _entry(HEAD, shape=[[6, 4]]),
        "object": _entry(HEAD, shape={"6": 4}),
        "a hundred dimensions": _entry(HEAD, shape=[6, 4] + [1] * 98),
        "not a number": _entry(HEAD, shape=[float("nan")]),
    },
)

DTYPES = cases(
    "wrong dtypes",
    FormatError,
    (FILE, HEAD),
    {
        "float 8": _entry(HEAD, dtype="F8_E4M3"),
        "float 8, other": _entry(HEAD, dtype="F8_E5M2"),
        "float 4": _entry(HEAD, dtype="F4"),
        "complex": _entry(HEAD, dtype="C64"),
        "unsigned": _entry(HEAD, dtype="U32"),
        "other width": _entry(HEAD, dtype="F64"),
        "lower case": _entry(HEAD, dtype="f32"),
        "torch's name": _entry(HEAD, dtype="torch.float32"),
        "empty": _entry(HEAD, dtype=""),
        "space": _entry(HEAD, dtype="F32 "),
        "null": _entry(HEAD, dtype=None),
        "number": _entry(HEAD, dtype=32),
        "list": _entry(HEAD, dtype=["F32"]),
        "object": _entry(HEAD, dtype={}),
        "missing": _entry(HEAD, dtype=...),
    },
)

TEXT = cases(
    "headers that are not JSON",
    FormatError,
    FILE,
    {
        "tensor twice": _renamed(f'"{Q}"'),
        "dtype twice": _text(lambda text: text.replace('"dtype"', '"dtype": "F32", "dtype"', 1)),
        "metadata twice": _text(lambda text: '{"__metadata__": {}, "__metadata__": {},' + text[1:]),
        "list": _text(lambda text: f"[{text}]"),
        "open": _text(lambda text: text[:-1]),
        "two": _text(lambda text: text + text),
        "trailing comma": _text(lambda text: text[:-1] + ",}"),
        "single quotes": _text(lambda text: text.replace('"', "'")),
        "byte order mark": _text(lambda text: "\ufeff" + text),
        "UTF-16": _text(lambda text: text.encode("utf-16")),
        "not UTF-8": _text(lambda text: text.encode().replace(b"lm_head", b"lm_\xff\xfe")),
        "zero byte": _text(lambda text: text + "\0"),
        "half a character": _renamed(r'"lm_\ud800"'),
        "line end in a name": _renamed(r'"lm_\nhead"'),
        "terminal codes in a name": _renamed(r'"lm_\u001b[2J"'),
        "zero in a name": _renamed(r'"\u0000"'),
        "digits by the thousand": _text(lambda text: text.replace("[6,", "[" + "6" * 5000 + ",")),
        "tensor that is a list": _text(lambda text: text[:-1] + ', "x": [1]}'),
        "tensor that is null": _text(lambda text: text[:-1] + ', "x": null}'),
        "nested deep": _text(lambda text: text[:-1] + ', "x":' + '{"y":' * 500 + "1" + "}" * 501),
    },
)  # fmt: skip

METADATA = cases(
    "bad metadata",
    FormatError,
    (FILE, "metadata"),
    {
        "list": _metadata([]),
        "list of pairs": _metadata([["format", "pt"]]),
        "text": _metadata("pt"),
        "null": _metadata(None),
        "number": _metadata(1),
        "truth": _metadata(True),
        "holds a number": _metadata({"format": 1}),
        "holds null": _metadata({"format": None}),
        "holds a list": _metadata({"format": ["pt"]}),
        "holds an object": _metadata({"format": {"pt": "pt"}}),
        "holds truth": _metadata({"format": "pt", "tied": True}),
        "is a tensor": _metadata({"dtype": "F32", "shape": [], "data_offsets": [0, 0]}),
    },
)

CASES: list[Case] = [
    *TRUNCATED, *FLIPPED, *HUGE, *OFFSETS, *OVERLAPS, *SHAPES, *DTYPES, *TEXT, *METADATA,
]  # fmt: skip


@each(CASES)
def test_is_refused(case: Case, tmp_path: Path) -> None:
    refused(case, tmp_path)


def test_an_empty_tensor_between_others_is_no_fault(tmp_path: Path) -> None:
    """The reverse of `overlaps and gaps`: what touches no byte may stand where others meet."""
    pool = Pool(tmp_path)
    _spans((0, 8), (8, 8), (8, 16), size=16)(pool)
    assert len(read_header(pool.root / FILE)) == 3
