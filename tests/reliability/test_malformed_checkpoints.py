"""Folders of weights that are incomplete or hostile: the error names the file at fault."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from cermet import api
from cermet.core.errors import FormatError, InputError
from tests.reliability.malformed import (
    BUFFER,
    HEAD,
    WEIGHTS,
    Case,
    Pool,
    Q,
    cases,
    each,
    refused,
    sound,
)

FILE, CONFIG = f"a/{WEIGHTS}", "a/config.json"
INDEX = f"a/{WEIGHTS}.index.json"
BIN, BIN_INDEX = "a/pytorch_model.bin", "a/pytorch_model.bin.index.json"
ONE, TWO = "one.safetensors", "two.safetensors"
Spoil = Callable[[Pool], object]


def _sharded(spoil: Callable[[Pool, dict[str, Any]], object]) -> Spoil:
    """Spoil a model of two shards; what is done to its weight map is written."""

    def act(pool: Pool) -> None:
        weight_map: dict[str, Any] = dict(pool.shard())
        spoil(pool, weight_map)
        pool.write(INDEX, {"weight_map": weight_map})

    return act


def _index(content: bytes | str) -> Spoil:
    def act(pool: Pool) -> None:
        pool.shard()
        pool.write(INDEX, content)

    return act


def _linked(name: str, target: str) -> Spoil:
    """Put a link in the place of a file."""

    def act(pool: Pool) -> None:
        (pool.root / name).unlink(missing_ok=True)
        (pool.root / name).symlink_to(target)

    return act


def _folder(name: str) -> Spoil:
    """Put a folder, with a file in it, in the place of a file."""

    def act(pool: Pool) -> None:
        (pool.root / name).unlink(missing_ok=True)
        pool.write(f"{name}/inside", "text")

    return act


def _pipe(name: str) -> Spoil:
    """Put a pipe in the place of a file: who opens it waits until somebody writes."""

    def act(pool: Pool) -> None:
        (pool.root / name).unlink(missing_ok=True)
        os.mkfifo(pool.root / name)

    return act


def _in_shard(file: str, spoil: Spoil) -> Spoil:
    def act(pool: Pool) -> None:
        pool.shard()
        spoil(pool)

    return act


def _set(key: str, value: object) -> Callable[[Pool, dict[str, Any]], object]:
    return lambda pool, weight_map: weight_map.update({key: value})


def _bins(change: Callable[[Pool, dict[str, Any]], object]) -> Spoil:
    """A model of two `.bin` shards and an index, which may be changed."""

    def act(pool: Pool) -> None:
        pool.remove(FILE)
        values = sound(1)
        files = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
        weight_map: dict[str, Any] = {}
        for file, names in zip(files, (list(values)[:3], list(values)[3:]), strict=True):
            torch.save({name: values[name] for name in names}, pool.root / "a" / file)
            weight_map.update(dict.fromkeys(names, file))
        change(pool, weight_map)
        if weight_map:
            pool.write(BIN_INDEX, {"weight_map": weight_map})

    return act


def _without_index(change: Callable[[Pool], object]) -> Spoil:
    return _bins(lambda pool, weight_map: (weight_map.clear(), change(pool)))


SHARDS = [
    *cases(
        "missing shards",
        FormatError,
        (INDEX, TWO),
        {
            "one of two": _sharded(lambda pool, _: pool.remove(f"a/{TWO}")),
            "named otherwise": _sharded(
                lambda pool, _: (pool.root / "a" / TWO).rename(pool.root / "a/2.safetensors")
            ),
            "a folder": _in_shard(TWO, _folder(f"a/{TWO}")),
            "a link to nothing": _in_shard(TWO, _linked(f"a/{TWO}", "gone")),
            "a link to itself": _in_shard(TWO, _linked(f"a/{TWO}", TWO)),
            "a pipe": _in_shard(TWO, _pipe(f"a/{TWO}")),
            "in a folder below": _in_shard(
                TWO, lambda pool: (_folder(f"a/{TWO}")(pool), pool.write(f"a/{TWO}/{TWO}", b""))
            ),
        },
    ),
    *cases(
        "missing shards",
        FormatError,
        f"a/{TWO}",
        {
            "empty": _in_shard(TWO, lambda pool: pool.write(f"a/{TWO}", b"")),
            "cut short": _in_shard(
                TWO,
                lambda pool: pool.write(f"a/{TWO}", (pool.root / "a" / TWO).read_bytes()[:-4]),
            ),
            "another's": _in_shard(
                TWO, lambda pool: shutil.copy(pool.root / "b" / WEIGHTS, pool.root / "a" / TWO)
            ),
            "holds more": _sharded(lambda _, weight_map: weight_map.pop(Q)),
        },
    ),
    *cases(
        "missing shards",
        FormatError,
        (INDEX, HEAD),
        {"lacks a tensor": _sharded(_set(HEAD, TWO))},
    ),
    *cases(
        "missing shards",
        FormatError,
        ("a:", "00002"),
        {"a .bin": _bins(lambda pool, _: pool.remove("a/pytorch_model-00002-of-00002.bin"))},
    ),
    *cases(
        "missing shards",
        FormatError,
        ("a:", "1 of 2"),
        {
            "a .bin without an index": _without_index(
                lambda pool: pool.remove("a/pytorch_model-00002-of-00002.bin")
            )
        },
    ),
    *cases(
        "missing shards",
        FormatError,
        (BUFFER, ONE, TWO),
        {
            "one twice, without an index": lambda pool: (
                pool.shard(),
                pool.remove(INDEX),
                shutil.copy(pool.root / "a" / ONE, pool.root / "a" / TWO),
            )
        },
    ),
]  # fmt: skip

INDEXES = [
    *cases(
        "damaged index",
        FormatError,
        INDEX,
        {
            "empty": _index(b""),
            "cut short": _index(b'{"weight_map": {"a": "one.safe'),
            "list": _index("[]"),
            "text": _index('"one.safetensors"'),
            "null": _index("null"),
            "no map": _index('{"metadata": {}}'),
            "map is a list": _index('{"weight_map": ["one.safetensors"]}'),
            "map is empty": _index('{"weight_map": {}}'),
            "map is null": _index('{"weight_map": null}'),
            "map twice": _index('{"weight_map": {"a": "b"}, "weight_map": {"a": "b"}}'),
            "not UTF-8": _index(b'{"weight_map": {"\xff": "one.safetensors"}}'),
            "UTF-16": _index('{"weight_map": {}}'.encode("utf-16")),
            "nested deep": _index("[" * 200_000),
            "nested ninety deep": _index('{"weight_map": ' + "[" * 90 + "]" * 90 + "}"),
            "over 100 MB": _in_shard(TWO, lambda pool: os.truncate(pool.root / INDEX, 100_000_001)),
        },
    ),
    *cases(
        "damaged index",
        FormatError,
        (INDEX, HEAD),
        {
            "shard is a number": _sharded(_set(HEAD, 1)),
            "shard is null": _sharded(_set(HEAD, None)),
            "shard is a list": _sharded(_set(HEAD, [ONE])),
            "shard is an object": _sharded(_set(HEAD, {"file": ONE})),
        },
    ),
    *cases(
        "damaged index",
        FormatError,
        (INDEX, "invented"),
        {"tensor that is nowhere": _sharded(_set("invented", ONE))},
    ),
    *cases(
        "damaged index",
        FormatError,
        BIN_INDEX,
        {
            "a .bin's is no JSON": _bins(lambda pool, m: (m.clear(), pool.write(BIN_INDEX, "{"))),
            "a .bin's map is a list": _bins(
                lambda pool, m: (m.clear(), pool.write(BIN_INDEX, '{"weight_map": []}'))
            ),
        },
    ),
]

_OUTSIDE = {
    "parent": "../b/model.safetensors",
    "parent of a folder": "x/../../b/model.safetensors",
    "root": "/etc/passwd",
    "folder below": "x/one.safetensors",
    "here": "./one.safetensors",
    "backslash": "..\\b\\model.safetensors",
    "drive": "C:one.safetensors",
    "drive and root": "C:\\one.safetensors",
    "share": "\\\\host\\one.safetensors",
    "empty": "",
    "dot": ".",
    "dots": "..",
    "slash": "/",
    "zero": "one.safetensors\0",
    "zero inside": "one\0.safetensors",
    "line end": "one.safetensors\n",
    "terminal codes": "\x1b[2Jone.safetensors",
    "256 bytes": "x" * 256,
    "100 kB": "x" * 100_000,
    "wide, 300 bytes": "é" * 150,
}

TRAVERSAL = [
    *cases(
        "shards outside of the folder",
        FormatError,
        (INDEX, HEAD),
        {name: _sharded(_set(HEAD, shard)) for name, shard in _OUTSIDE.items()},
    ),
    *cases(
        "shards outside of the folder",
        FormatError,
        (BIN_INDEX, HEAD),
        {
            f"of .bin, {name}": _bins(_set(HEAD, _OUTSIDE[name]))
            for name in ("parent", "root", "backslash", "drive", "empty", "dots", "zero", "100 kB")
        },
    ),
]

NO_FILES = [
    *cases(
        "weights that are no files",
        FormatError,
        FILE,
        {
            "folder": _folder(FILE),
            "pipe": _pipe(FILE),
            "link to nothing": _linked(FILE, "gone"),
            "link to itself": _linked(FILE, WEIGHTS),
            "links in a circle": lambda pool: (
                _linked(FILE, "x")(pool), _linked("a/x", WEIGHTS)(pool)
            ),
            "link to a folder": _linked(FILE, "../b"),
            "link to a device": _linked(FILE, "/dev/zero"),
            "link to a text": _linked(FILE, "config.json"),
        },
    ),
    *cases(
        "weights that are no files",
        FormatError,
        BIN,
        {
            "folder, .bin": lambda pool: (pool.remove(FILE), _folder(BIN)(pool)),
            "pipe, .bin": lambda pool: (pool.remove(FILE), _pipe(BIN)(pool)),
        },
    ),
    *cases(
        "weights that are no files",
        FormatError,
        CONFIG,
        {"config folder": _folder(CONFIG), "config pipe": _pipe(CONFIG)},
    ),
    *cases(
        "weights that are no files",
        InputError,
        "/in/a'",
        {
            "nothing": lambda pool: pool.remove(FILE),
            "no folder": lambda pool: shutil.rmtree(pool.root / "a"),
            "a text": lambda pool: (shutil.rmtree(pool.root / "a"), pool.write("a", "text")),
            "a link to nothing": lambda pool: (
                shutil.rmtree(pool.root / "a"), _linked("a", "gone")(pool)
            ),
        },
    ),
]  # fmt: skip

_PARTS = '{"x": [' + "0," * 5_000_000 + "0]}"

CONFIGS = cases(
    "damaged config",
    FormatError,
    CONFIG,
    {
        "empty": lambda pool: pool.write(CONFIG, b""),
        "spaces": lambda pool: pool.write(CONFIG, b"  \n"),
        "cut short": lambda pool: pool.write(CONFIG, '{"model_type": "lla'),
        "list": lambda pool: pool.write(CONFIG, "[]"),
        "null": lambda pool: pool.write(CONFIG, "null"),
        "number": lambda pool: pool.write(CONFIG, "2"),
        "text": lambda pool: pool.write(CONFIG, '"llama"'),
        "YAML": lambda pool: pool.write(CONFIG, "model_type: llama"),
        "comment": lambda pool: pool.write(CONFIG, '{"x": 1} // a comment'),
        "Python": lambda pool: pool.write(CONFIG, "{'model_type': None}"),
        "not UTF-8": lambda pool: pool.write(CONFIG, b'{"x": "\xff"}'),
        "UTF-16": lambda pool: pool.write(CONFIG, '{"x": 1}'.encode("utf-16")),
        "key twice": lambda pool: pool.write(CONFIG, '{"x": 1, "x": 2}'),
        "half a character": lambda pool: pool.write(CONFIG, r'{"x": "\ud800"}'),
        "nested deep": lambda pool: pool.write(CONFIG, '{"x":' * 100_000),
        "nested ninety deep": lambda pool: pool.write(CONFIG, '{"x":' * 90 + "1" + "}" * 90),
        "digits by the thousand": lambda pool: pool.write(CONFIG, '{"x": ' + "9" * 5000 + "}"),
        "millions of parts": lambda pool: pool.write(CONFIG, _PARTS),
        "over 100 MB": lambda pool: os.truncate(pool.root / CONFIG, 100_000_001),
    },
)


CASES: list[Case] = [*SHARDS, *INDEXES, *TRAVERSAL, *NO_FILES, *CONFIGS]


@each(CASES)
def test_is_refused(case: Case, tmp_path: Path) -> None:
    refused(case, tmp_path)


def test_links_to_files_are_followed(tmp_path: Path) -> None:
    """The hub's cache is made of links, so they are no fault."""
    pool = Pool(tmp_path)
    pool.shard()
    (pool.root / "a" / ONE).rename(pool.root / "blob")
    _linked(f"a/{ONE}", "../blob")(pool)
    assert api.open(pool.root / "a").keys() == sound(1).keys()
