"""PyTorch `.bin` checkpoints, read through `torch.load(weights_only=True)` alone.

A `.bin` file is a pickle. The restricted unpickler of torch builds tensors and plain
containers and nothing else, so opening such a file runs none of its code; whatever it
refuses becomes a `FormatError`. Files of the zip format (torch 1.6 and later) are mapped:
opening reads their table of contents, and weights are paged in when a block is asked for.
Older files have no table and are read whole.

`TensorInfo.begin` is -1 throughout: a tensor here may be strided, so there is no run of
bytes in the file that may be copied in its place. Ask `block` for values.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from cermet.checkpoints.dtypes import NAMES
from cermet.checkpoints.header import TensorInfo, read_json
from cermet.checkpoints.reader import LONGEST_NAME, read_config
from cermet.core.errors import FormatError

__all__ = ["BinCheckpoint", "flat_block", "read_bin"]

_SINGLE = "pytorch_model.bin"
_INDEX = "pytorch_model.bin.index.json"
_SHARD = re.compile(r"pytorch_model-(\d{5})-of-(\d{5})\.bin")
_WRAPPERS = ("state_dict", "model")


class BinCheckpoint:
    """A folder of PyTorch weights, or one `.bin` file, as a lazy mapping of tensors.

    Parameters
    ----------
    source: a folder with `pytorch_model.bin`, or with shards `pytorch_model-0000x-of-0000y.bin`
        (with or without `pytorch_model.bin.index.json`), or a single `.bin` file.
    path: how the user wrote it, for messages; the source itself by default.

    Attributes
    ----------
    path: as the user wrote it.
    config: `config.json` beside the weights, or empty.
    exact: True; blocks are the values in the file.
    tensors: name to `TensorInfo`; `begin` is -1 (see the module's docstring). Tensors that share
        storage, such as tied embeddings, are all listed under their own names.

    Raises
    ------
    FormatError: a file that is missing, truncated, or not a table of tensors; a shard outside of
        the folder; a tensor in two shards.
    """

    exact = True
    adapter = ()

    def __init__(self, source: Path, path: str | None = None) -> None:
        self.path = str(source) if path is None else path
        self.config: Mapping[str, Any] = read_config(source if source.is_dir() else source.parent)
        self._values: dict[str, torch.Tensor] = {}
        self.tensors: dict[str, TensorInfo] = {}
        if source.is_dir():
            self._open_folder(source)
        else:
            self._add(source, read_bin(source))

    def block(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Elements [start, stop) of the row-major tensor: 1-D, stored dtype, a view if contiguous.

        Raises
        ------
        KeyError: no tensor of that name.
        IndexError: a range outside of the tensor.
        """
        return flat_block(self._values[name], start, stop)

    def _open_folder(self, folder: Path) -> None:
        if (folder / _SINGLE).exists():
            self._add(folder / _SINGLE, read_bin(folder / _SINGLE))
            return
        weight_map = _weight_map(folder)
        files = _shards(folder) if weight_map is None else sorted(set(weight_map.values()))
        missing = [file for file in files if not (folder / file).is_file()]
        if missing:
            raise FormatError(
                f"{self.path}: {len(missing)} of {len(files)} weight files are missing: "
                f"{', '.join(missing[:4])}. Copy or download the folder again."
            )
        for file in files:
            values = read_bin(folder / file)
            if weight_map is not None:
                # the index decides between copies of one name in several shards
                values = {k: v for k, v in values.items() if weight_map.get(k, file) == file}
            self._add(folder / file, values)
        self._check_index(weight_map or {})

    def _add(self, file: Path, values: Mapping[str, torch.Tensor]) -> None:
        for name, value in values.items():
            if name in self.tensors:
                raise FormatError(
                    f"{file}: tensor {name!r} stands in {self.tensors[name].file.name} too. "
                    "Remove the shard that does not belong to this checkpoint."
                )
            self._values[name] = value
            nbytes = value.numel() * value.element_size()
            self.tensors[name] = TensorInfo(
                name, NAMES[value.dtype], tuple(value.shape), file, -1, nbytes
            )

    def _check_index(self, weight_map: Mapping[str, str]) -> None:
        for name, file in weight_map.items():
            if name not in self.tensors:
                raise FormatError(
                    f"{self.path}: {_INDEX} places tensor {name!r} in {file}, "
                    "which does not hold it. Copy or download the folder again."
                )


def read_bin(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of one `.bin` file, by name; mapped where the format allows it.

    A table wrapped in a dictionary under `state_dict` or `model`, as trainers save it, is taken
    out of its wrapper.

    Raises
    ------
    FormatError: naming the file and the reason.
    """
    if file.exists() and not file.is_file():  # opening a pipe would wait for ever
        raise FormatError(f"{file}: is no file, and Cermet refuses to open anything else")
    table = _load(file)
    if not isinstance(table, Mapping):
        raise FormatError(
            f"{file}: expected a table of tensors, found {_kind(table)}. "
            "Save the model with save_pretrained, or its state_dict with torch.save."
        )
    for wrapper in _WRAPPERS:
        inner = table.get(wrapper)
        if isinstance(inner, Mapping) and inner and all(map(_is_tensor, inner.values())):
            table = inner
            break
    limit = file.stat().st_size
    return {_name(file, key): _checked(file, key, value, limit) for key, value in table.items()}


def flat_block(value: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """Elements [start, stop) of a tensor in row-major order, 1-D; a view if it is contiguous.

    Of a strided tensor only the rows that the range touches are gathered.

    Raises
    ------
    IndexError: a range outside of the tensor.
    """
    if not 0 <= start <= stop <= value.numel():
        raise IndexError(f"elements [{start}, {stop}) of a tensor with {value.numel()}")
    if value.is_contiguous():
        return value.view(-1)[start:stop]
    if start == stop:
        return value.new_empty(0)
    row = value.numel() // value.shape[0]
    first = start // row
    rows = value[first : -(-stop // row)]
    return rows.reshape(-1)[start - first * row : stop - first * row]


def _load(file: Path) -> object:
    """The unpickled content. The file decides which exception a fault raises, so all are caught."""
    try:
        mapped = zipfile.is_zipfile(file)
        with warnings.catch_warnings():
            # TorchScript archives warn before they are refused
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except FileNotFoundError:
        raise FormatError(f"{file}: no such file") from None
    except Exception as error:
        lines = str(error).strip().splitlines()
        reason = lines[0][:200] if lines else "no reason given"
        raise FormatError(
            f"{file}: torch refuses it as a file of weights only "
            f"({type(error).__name__}: {reason}). The file is damaged, or holds more than tensors; "
            "Cermet never runs the code in a pickle. Convert it to safetensors where you trust it."
        ) from None


def _is_tensor(value: object) -> bool:
    return isinstance(value, torch.Tensor)


def _name(file: Path, key: object) -> str:
    if not isinstance(key, str):
        raise FormatError(f"{file}: a tensor is called {key!r}; names must be text")
    return key


def _checked(file: Path, key: object, value: object, limit: int) -> torch.Tensor:
    """The plain tensor of one entry, or a `FormatError` that says what it is instead."""
    if not isinstance(value, torch.Tensor):
        raise FormatError(
            f"{file}: entry {key!r} is {_kind(value)}, not a tensor. "
            "Save the model's state_dict alone."
        )
    if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
        raise FormatError(
            f"{file}: tensor {key!r} is not a dense tensor with values "
            f"(layout {value.layout}, device {value.device}, dtype {value.dtype})"
        )
    if value.dtype not in NAMES:
        raise FormatError(f"{file}: tensor {key!r} has dtype {value.dtype}, which is not supported")
    if value.numel() * value.element_size() > limit:
        # a stride of zero lets a few bytes pose as terabytes
        raise FormatError(
            f"{file}: tensor {key!r} of shape {tuple(value.shape)} claims more bytes "
            f"than the whole file holds ({limit})"
        )
    return value.detach()


def _kind(value: object) -> str:
    return f"an object of type {type(value).__name__}"


def _weight_map(folder: Path) -> dict[str, str] | None:
    """Name to file, from the index; None where there is no index."""
    file = folder / _INDEX
    if not file.is_file():
        return None
    weight_map = read_json(file, "the index").get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise FormatError(f"{file}: expected an object under 'weight_map' that names the shards")
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or not _inside(shard):
            raise FormatError(
                f"{file}: tensor {name!r} is placed in {shard!r}; a shard must be a file inside of "
                "the folder"
            )
    return weight_map


def _inside(shard: str) -> bool:
    """Whether a shard's name stays in the folder. Links are allowed: the hub's cache is made of
    them."""
    path = PurePosixPath(shard)
    plain = bool(path.name) and "\\" not in shard and ":" not in shard and "\0" not in shard
    short = all(len(part.encode()) <= LONGEST_NAME for part in path.parts) and len(shard) < 1024
    return plain and short and not path.is_absolute() and ".." not in path.parts


def _shards(folder: Path) -> list[str]:
    """The names of a complete set of shards, from the names that are there."""
    found = [match for file in sorted(folder.iterdir()) if (match := _SHARD.fullmatch(file.name))]
    totals = sorted({match[2] for match in found})
    if not totals:
        raise FormatError(f"{folder}: no {_SINGLE} and no shards of one")
    if len(totals) > 1:
        raise FormatError(
            f"{folder}: shards of two checkpoints lie together (of {' and of '.join(totals)}). "
            f"Remove the ones that do not belong, or add {_INDEX}."
        )
    count = int(totals[0])
    if count != len(found):
        raise FormatError(f"{folder}: {len(found)} of {count} weight files are there")
    return [match.string for match in found]
