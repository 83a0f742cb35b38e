"""Modules and tokenizers of transformers, read from a folder: the one place where that is done.

What is run has to be all there, in the shapes that its config says, with nothing left over.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from cermet.checkpoints.carry import tokenizer_files
from cermet.checkpoints.reader import open_checkpoint, read_config
from cermet.core.errors import ExtraError, FormatError, InputError, MismatchError

__all__ = [
    "Kind",
    "Loaded",
    "config_in",
    "library",
    "load_module",
    "load_tokenizer",
    "quiet",
    "tokenizer_in",
]

Kind = Literal["encoder", "classifier", "causal"]

_AUTO: Mapping[Kind, str] = {
    "encoder": "AutoModel",
    "classifier": "AutoModelForSequenceClassification",
    "causal": "AutoModelForCausalLM",
}
_CALLED: Mapping[Kind, str] = {
    "encoder": "encoder",
    "classifier": "sequence classifier",
    "causal": "causal language model",
}
_UNREAD = "pooler."  # of an encoder: pooled vectors are made from its hidden states
_FAILED = (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError)


@dataclass(frozen=True)
class Loaded:
    """A module in float32, with its place for every tensor of a checkpoint.

    prefix: of the encoder's names in a model with a head. passed_over: names that its folder holds
    and transformers leaves out without a word.
    """

    module: Any
    kind: Kind
    prefix: str
    passed_over: frozenset[str]

    def place(self, name: str, own: Collection[str]) -> str | None:
        """The module's name of a tensor, with or without the prefix of a model with a head."""
        return _place(name, own, self.prefix)

    def beside(self, name: str, names: list[str]) -> bool:
        """Whether a tensor is of a head that a checkpoint holds beside its encoder."""
        headed = any(n.startswith(self.prefix) for n in names)
        return self.kind == "encoder" and headed and not name.startswith(self.prefix)

    def unread(self, name: str) -> bool:
        """Whether nothing depends on a tensor."""
        return self.kind == "encoder" and name.startswith(_UNREAD)


def library(doing: str) -> Any:
    """The package transformers; ExtraError where it is missing, which `doing` needs."""
    try:
        import transformers
    except ImportError as error:
        raise ExtraError(
            f"{doing} needs transformers; install it with: pip install 'cermet[load]'"
        ) from error
    return transformers


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars, many and short here, and without its warnings."""
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def config_in(folder: Path) -> dict[str, Any]:
    """The config of a folder; InputError where it holds none."""
    if not (folder / "config.json").is_file():
        raise InputError(f"'{folder}' is not a checkpoint folder: it holds no config.json.")
    return read_config(folder)


def load_module(folder: Path, kind: Kind) -> Loaded:
    """The module of a folder, run as `kind`.

    Raises ExtraError without transformers, InputError where the folder holds no such model,
    FormatError where it cannot be read, MismatchError where its tensors are not the model's.
    """
    config_in(folder)
    module, report = _read(folder, kind)
    names, told = list(open_checkpoint(folder).tensors), set(report["unexpected_keys"])
    own, prefix = module.state_dict(), f"{module.base_model_prefix}."
    silent = {n for n in names if n not in told and _place(n, own, prefix) is None}
    found = Loaded(module, kind, prefix, frozenset(silent))
    _refuse(
        folder,
        found,
        missing={n for n in report["missing_keys"] if not found.unread(n)},
        unexpected={n for n in told if not found.beside(n, names)},
        changed={n for n, *_ in report["mismatched_keys"]},
    )
    return found


def _place(name: str, own: Collection[str], prefix: str) -> str | None:
    spellings = (name, prefix + name, name.removeprefix(prefix))
    return next((n for n in spellings if n in own), None)


def _read(folder: Path, kind: Kind) -> tuple[Any, dict[str, Any]]:
    transformers = library("Running a model")
    try:
        with quiet():
            module, report = getattr(transformers, _AUTO[kind]).from_pretrained(
                folder,
                local_files_only=True,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are in the report
            )
    except _FAILED as error:
        if "Unrecognized configuration class" in str(error):
            called = read_config(folder).get("model_type")
            raise InputError(
                f"'{folder}' ({called}) cannot be run as a {_CALLED[kind]}."
            ) from error
        raise FormatError(
            f"'{folder}' cannot be loaded as a {_CALLED[kind]}: {_reason(error)}"
        ) from error
    return module, report


def _refuse(
    folder: Path, found: Loaded, *, missing: set[str], unexpected: set[str], changed: set[str]
) -> None:
    called = _CALLED[found.kind]
    if missing:
        raise InputError(f"'{folder}' is not a whole {called}: it lacks '{min(missing)}'.")
    if unexpected:
        raise MismatchError(
            f"'{folder}' holds '{min(unexpected)}', which is no part of its {called} "
            f"({type(found.module).__name__})."
        )
    if changed:
        raise MismatchError(
            f"'{folder}': tensor '{min(changed)}' has another shape than its config says."
        )


def tokenizer_in(folder: Path) -> list[Path]:
    """The files of a folder's tokenizer; InputError where it holds none."""
    found = tokenizer_files(folder)
    if not found:  # without any, transformers may make one that knows no word
        raise InputError(f"'{folder}' holds no tokenizer, so it cannot read texts.")
    return found


def load_tokenizer(folder: Path) -> Any:
    """transformers' tokenizer of a folder.

    Raises ExtraError without transformers, InputError where the folder holds none, and FormatError
    where it cannot be read.
    """
    tokenizer_in(folder)
    transformers = library("Reading texts")
    try:
        with quiet():
            return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except _FAILED as error:
        raise FormatError(
            f"The tokenizer of '{folder}' cannot be read: {_reason(error)}"
        ) from error


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(": ")
