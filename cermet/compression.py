"""`compress`: what an expert has beyond its base, as a delta archive."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cermet.checkpoints.adapter import FACTORS, adapter_config
from cermet.checkpoints.carry import carry_files
from cermet.checkpoints.origin import origin_of
from cermet.checkpoints.reader import Checkpoint, open_checkpoint
from cermet.core.codec import Codec, Otherwise, find_codec
from cermet.core.errors import DiskError, InputError, MethodError, OutputError, RecipeError
from cermet.core.registry import call, nearest
from cermet.core.types import Place
from cermet.engine.archive import FORMAT, MANIFEST, Archive, Model, write_archive
from cermet.engine.card import page
from cermet.engine.compress import Encoded, Work, encode
from cermet.engine.figures import Row, rows
from cermet.engine.folder import RECORD, OutputFolder
from cermet.engine.gather import TIED
from cermet.engine.memory import DEFAULT_BUDGET
from cermet.engine.options import DEFAULT_SHARD, Options, check_device
from cermet.engine.pairs import pairs
from cermet.engine.record import machine, versions, write_json
from cermet.engine.shards import shards_of
from cermet.recipes.opening import folder_of, open_model
from cermet.recipes.schema import parse_model
from cermet.recipes.settings import convert

__all__ = ["Compressed", "compress"]

Progress = Callable[[str, int], None]


@dataclass(frozen=True)
class Compressed:
    """What a compression has written, and what it is worth.

    bytes: of the archive's weight files and manifest. expert_bytes: of the expert's tensors.
    bits_per_weight: of the archive. bound: bits a weight that the entropy of the codec's code
    allows, where it has one. error: Frobenius norm of restored minus expert, over that of the
    delta. roles, layers: the same figures by role and by layer.
    """

    path: Path
    codec: str
    parameters: Mapping[str, Any]
    tensors: int
    weights: int
    bytes: int
    expert_bytes: int
    bits_per_weight: float
    bound: float | None
    error: float
    roles: tuple[Row, ...]
    layers: tuple[Row, ...]
    seconds: float
    sync_seconds: float
    peak_bytes: int


def compress(
    base: str | Path,
    expert: str | Path,
    out: str | Path,
    *,
    codec: str,
    seed: int = 0,
    rest: Otherwise | None = None,
    needs: Mapping[str, str | Path] | None = None,
    memory: int = DEFAULT_BUDGET,
    threads: int | None = None,
    device: str = "cpu",
    shard_size: int = DEFAULT_SHARD,
    overwrite: bool = False,
    progress: Progress | None = None,
    **parameters: Any,
) -> Compressed:
    """Write what an expert has beyond its base as a delta archive.

    Parameters
    ----------
    base, expert: folders, files, hub names, or `model+adapter`.
    codec: name of a codec. seed: of the random ones.
    rest: what becomes of tensors that the codec does not cover: `expert` keeps their own bytes,
        `base` leaves them out; by default as the codec declares.
    needs: files of statistics that the codec can use, by name.
    device: cpu or cuda, where deltas are encoded; the error is that of what is restored on the
        CPU. memory, threads, shard_size, overwrite, progress: as of `merge`.
    parameters: of the codec.

    Raises CermetError in one of its kinds; the output is then as it was before.
    """
    check_device(device)
    found = find_codec(codec)
    values = _values(found, parameters)
    if rest not in (None, "expert", "base"):
        raise InputError(f"'{rest}' is not what becomes of the rest: expert or base.")
    models = [open_model(parse_model(str(m))) for m in (base, expert)]
    extras = _extras(found, needs or {})
    work = Work(
        found, values, models[1], models[0], pairs(models[1], models[0]),
        rest or found.otherwise, seed, extras,
    )  # fmt: skip
    _check_apart([*models, *extras.values()], Path(out), "is compressed")
    options = Options(memory, threads, device, shard_size)
    with _written(Path(out), overwrite) as folder:
        encoded = encode(work, folder, options, progress)
        files = _write_beside(work, str(base), str(expert), encoded, folder)
        done = _figures(work, Path(out), encoded, folder)
        write_json(folder.work / RECORD, _record(work, done, folder, options, files))
    return done


def _values(codec: Codec, given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a codec from what a caller gave by name."""
    spelled = {name.rstrip("_"): value for name, value in given.items()}
    for name in spelled.keys() - codec.parameters.keys():
        takes = ", ".join(codec.parameters) or "no parameters"
        hint = nearest(name, codec.parameters)
        raise MethodError(f"'{codec.name}' takes no '{name}' (it takes {takes}).{hint}")
    found = {}
    for name, parameter in codec.parameters.items():
        if name not in spelled and parameter.required:
            raise MethodError(f"'{codec.name}' needs '{name}'.")
        try:
            value = spelled.get(name, parameter.default)
            found[parameter.argument] = convert(parameter, value, f"'{codec.name}'")
        except RecipeError as error:  # there is no recipe here
            raise MethodError(str(error)) from error
    problem = call(codec.check, **found) if codec.check is not None else None
    if problem is not None:
        raise MethodError(f"'{codec.name}': {problem}.")
    return found


def _extras(codec: Codec, given: Mapping[str, str | Path]) -> dict[str, Checkpoint]:
    known = [extra.name for extra in codec.extras]
    for name in given:
        if name not in known:
            uses = f"can use {', '.join(known)}" if known else "uses no statistics"
            raise MethodError(f"'{codec.name}' {uses}, but was given '{name}'.")
    return {name: open_checkpoint(Path(path), str(path)) for name, path in given.items()}


def _check_apart(models: list[Checkpoint], out: Path, what: str) -> None:
    """Refuse an output that would replace what it is made of."""
    used = {t.file.resolve().parent for m in models for t in m.tensors.values()}
    used |= {file.resolve().parent for m in models for file in m.adapter}
    if Path(os.path.realpath(out)) in used:
        raise OutputError(
            f"'{out}' holds what {what}, so it cannot be the output. Choose another name."
        )


@contextmanager
def _written(out: Path, overwrite: bool) -> Iterator[OutputFolder]:
    """An output folder that is published if all goes well, and else leaves nothing."""
    with OutputFolder(out, resume=False, overwrite=overwrite) as folder:
        try:
            yield folder
            folder.publish()
        except OSError as error:
            raise DiskError(f"'{out}' cannot be written: {error.strerror or error}.") from error
        except BaseException:
            folder.discard()
            raise


# -- what stands beside the parts -----------------------------------------------


def _write_beside(
    work: Work, base: str, expert: str, encoded: Encoded, folder: OutputFolder
) -> list[str]:
    """Config, tokenizer and other files, model card, manifest; the names of all."""
    source = folder_of(parse_model(expert))
    if work.expert.config:
        write_json(folder.work / "config.json", work.expert.config)
    carry_files(source, source, folder.work)
    if work.codec.adapter:
        config = _adapter(work, base, encoded)
        write_json(folder.work / "adapter_config.json", config)
    files = [n for n in folder.files() if not n.startswith(f"{work.stem}.safetensors")
             and not n.startswith(f"{work.stem}-0")]  # fmt: skip
    archive = Archive(
        format=FORMAT,
        codec=work.codec.name,
        parameters=_spelled(work),
        seed=work.seed,
        folder=os.path.relpath(Path.cwd(), folder.out),
        stem="adapter_model" if work.codec.adapter else "delta",
        base=Model(name=base, files=shards_of(work.base)),
        expert=Model(name=expert, files=shards_of(work.expert)),
        tensors=dict(encoded.entries),
        files={name: _sha256(folder.work / name) for name in files},
    )
    write_archive(folder.work / MANIFEST, archive)
    (folder.work / "README.md").write_text(_card(work, base, expert), "utf-8")
    return folder.files()


def _spelled(work: Work) -> dict[str, Any]:
    return {n: work.parameters[p.argument] for n, p in work.codec.parameters.items()}


def _sha256(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _adapter(work: Work, base: str, encoded: Encoded) -> dict[str, Any]:
    entries = encoded.entries
    ranks = {n: e.parts[FACTORS[0]].shape[0] for n, e in entries.items() if e.how == "coded"}
    whole = [name for name, entry in entries.items() if entry.how == "expert" and entry.parts]
    whole += [p.tied for p in work.pairs if TIED in entries[p.place.name].parts and p.tied]
    places = [pair.place for pair in work.pairs if pair.place.name in ranks]
    return adapter_config(
        ranks, whole, entries.keys(), base=base,
        architectures=work.expert.config.get("architectures") or (),
        transposed=any(place.transposed for place in places),
    )  # fmt: skip


def _layer(place: Place) -> str:
    if place.layer is None:
        return place.position
    return f"{place.stack}.{place.layer}"


def _figures(work: Work, out: Path, encoded: Encoded, folder: OutputFolder) -> Compressed:
    places = [pair.place for pair in work.pairs]
    (total,) = rows(encoded, places, lambda place: "")
    size = (folder.work / MANIFEST).stat().st_size + (encoded.layout.size if encoded.layout else 0)
    return Compressed(
        path=out,
        codec=work.codec.name,
        parameters=_spelled(work),
        tensors=total.tensors,
        weights=total.weights,
        bytes=size,
        expert_bytes=sum(info.nbytes for info in work.expert.tensors.values()),
        bits_per_weight=8 * size / max(1, total.weights),
        bound=encoded.bound,
        error=total.error,
        roles=rows(encoded, places, lambda place: str(place.role)),
        layers=rows(encoded, places, _layer),
        seconds=encoded.seconds,
        sync_seconds=encoded.sync_seconds,
        peak_bytes=encoded.peak_bytes,
    )


def _record(
    work: Work, done: Compressed, folder: OutputFolder, options: Options, files: list[str]
) -> dict[str, Any]:
    report = asdict(done)
    return {
        "format": 1,
        "compression": {k: v for k, v in report.items() if k not in _OF_THE_RUN},
        "versions": versions(),
        "machine": machine(options.device),
        "run": {
            "folder": os.path.relpath(Path.cwd(), folder.out),
            "device": options.device,
            "threads": options.workers(),
            "memory_budget": options.memory,
            "peak_private_bytes": done.peak_bytes,
            "seconds": round(done.seconds, 3),
            "sync_seconds": round(done.sync_seconds, 3),
        },
        "files": sorted(files),
    }


_OF_THE_RUN = {"path", "seconds", "sync_seconds", "peak_bytes"}


def _card(work: Work, base: str, expert: str) -> str:
    body = f"""
# What `{expert}` has beyond `{base}`

A delta archive of Cermet, made with the codec `{work.codec.name}` ({work.codec.source}).
`{MANIFEST}` describes it. The model comes back with the base:

```
cermet restore ARCHIVE OUT --base {base}
```
"""
    origins = [origin_of(n, "model", folder_of(parse_model(n))) for n in (base, expert)]
    return page(origins, body, tags=("delta", work.codec.name))
