"""Tasks of lm-evaluation-harness on a checkpoint's folder, with the harness's own numbers.

The harness runs inside this process, on a network in float32 as everywhere in Cermet. It is kept
from leaving anything behind: its logging, its bars, its environment variables and its files all
end with the call. Nothing is asked of the hub while the data of the tasks lie here.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import io
import logging
import math
import os
import random
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cermet.core.errors import CermetError, ExtraError, InputError, MachineError, NonFiniteError
from cermet.evaluate.harness_tasks import ONCE
from cermet.inference.network import Network
from cermet.inference.tokens import Tokenizer

__all__ = ["HarnessResult", "harness"]

_SEED = 1234  # the harness's own, for examples in prompts and for sampling
_DRAWS = 1000  # of a bootstrap, where the standard error has no formula
_LOGITS = 1 << 25  # numbers of a batch: 128 MB in float32
_ROWS = 64
_BATCHES = 8  # between two signs of progress
_CACHES = ("HF_DATASETS_CACHE", "DOWNLOADED_DATASETS_PATH")  # of datasets.config
_REQUESTS = ("loglikelihood", "loglikelihood_rolling", "generate_until")

Tick = Callable[[int, int], None]
"""Gets the requests that are done, and all of a kind."""


@dataclass(frozen=True)
class HarnessResult:
    """One number of one task, or of a group of tasks.

    Attributes
    ----------
    filter: what the harness did to the answers before, "none" for nothing. error: standard error,
        None where the harness has none. higher_is_better: None where the task does not say.
        examples: that were asked. scores: of each example, in the unit of the metric (1 and 0 for
        right and wrong), or the bits of its text, which `sizes` (characters, bytes or words)
        divide; both are None where the metric is not made of one number an example.
    """

    task: str
    metric: str
    filter: str
    value: float
    error: float | None
    higher_is_better: bool | None
    examples: int
    scores: tuple[float, ...] | None = None
    sizes: tuple[float, ...] | None = None


def harness(
    model: Path,
    tasks: Sequence[str],
    include: Sequence[Path] = (),
    *,
    limit: int | None = None,
    shots: int | None = None,
    device: str = "cpu",
    batch: int | None = None,
    tick: Tick | None = None,
) -> list[HarnessResult]:
    """Run tasks of lm-evaluation-harness on a causal language model.

    Parameters
    ----------
    model: a Hugging Face folder. tasks: names, patterns of names, or task files. include: folders
        with task files, which are found before the harness's own. limit: examples of each task
        that are asked. shots: examples in a prompt, for tasks that do not fix it. batch: rows of
        a batch; by default as many as the vocabulary leaves room for. tick: what it prints has to
        go to a stream that it holds, since standard output and error are closed to the harness.

    Raises ExtraError without the harness, InputError for an unknown task, one that does not work
    or a model that cannot do it, MachineError for data that only the hub has while it cannot be
    reached, NonFiniteError for a model that gives NaN; and as `Network` and `Tokenizer`.
    """
    _check(tasks, include, limit, shots, batch)
    with _apart() as folder:
        manager = _manager(tasks, include)
        network = Network(model, "causal", device)
        found = _loaded(manager, tasks, folder, shots)
        results: list[HarnessResult] = []
        for variant, names in _variants(found["tasks"]).items():
            lm = _language_model(network, variant, batch, tick or (lambda done, total: None))
            part = {"tasks": {n: found["tasks"][n] for n in names}}
            if variant is None:
                part["groups"] = found["groups"]
            results += _results(_evaluated(lm, part, limit))
    order = {name: place for place, name in enumerate(found["tasks"])}
    return sorted(results, key=lambda r: order.get(r.task, len(order)))


def _check(
    tasks: Sequence[str],
    include: Sequence[Path],
    limit: int | None,
    shots: int | None,
    batch: int | None,
) -> None:
    if not tasks:
        raise InputError("No task of lm-evaluation-harness is named.")
    for folder in include:
        if not folder.is_dir():
            raise InputError(f"There is no folder '{folder}' with task files.")
    for name, value, least in (("limit", limit, 1), ("batch", batch, 1), ("shots", shots, 0)):
        if value is not None and value < least:
            raise InputError(f"The {name} is {value}; it has to be {least} or more.")
    if importlib.util.find_spec("lm_eval") is None:
        raise ExtraError(
            "lm-evaluation-harness is not installed; install it with: pip install 'cermet[lm-eval]'"
        )


@contextlib.contextmanager
def _apart() -> Iterator[Path]:
    """Room for the harness: a folder that is removed, and silence; then all is as it was."""
    environment, level = dict(os.environ), logging.root.manager.disable
    with contextlib.ExitStack() as stack:
        stack.callback(_set_environment, environment)
        stack.callback(logging.disable, level)
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="cermet-lm-eval-"))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        os.environ["DISABLE_MULTIPROC"] = "1"  # or a bootstrap copies this process for every core
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        stack.callback(random.setstate, random.getstate())
        stack.callback(np.random.set_state, np.random.get_state())
        stack.enter_context(torch.random.fork_rng())
        random.seed(0)
        np.random.seed(_SEED)
        torch.manual_seed(_SEED)
        yield Path(folder)


def _set_environment(before: Mapping[str, str]) -> None:
    for name in set(os.environ) - set(before):
        del os.environ[name]
    os.environ.update(before)


def _manager(tasks: Sequence[str], include: Sequence[Path]) -> Any:
    """The harness's index of tasks; its own 14,000 are read only where they are needed."""
    from lm_eval.tasks import TaskManager

    paths = [str(folder) for folder in include]
    names = [n for n in tasks if not Path(n).is_file()]
    manager = TaskManager(include_path=paths, include_defaults=False)
    if all(manager.match_tasks([n]) for n in names):
        return manager
    manager = TaskManager(include_path=paths)
    for name in names:
        if not manager.match_tasks([name]):
            raise InputError(f"lm-evaluation-harness has no task '{name}'{_why(name, manager)}")
    return manager


def _why(name: str, manager: Any) -> str:
    """A task file that the harness passed over, or else the nearest spelling."""
    from lm_eval.tasks._yaml_loader import load_yaml

    for file in sorted(f for folder in manager.include_path for f in Path(folder).rglob("*.yaml")):
        try:
            load_yaml(file, resolve_func=False)
        except Exception as error:
            return f", and '{file}' cannot be read ({_reason(error)})."
    near = difflib.get_close_matches(name, manager.all_tasks, n=1)
    return f"; did you mean '{near[0]}'?" if near else "; name a task, a group or a task file."


def _loaded(manager: Any, tasks: Sequence[str], folder: Path, shots: int | None) -> dict[str, Any]:
    """The tasks with their data, and the groups that they stand in."""
    found: dict[str, Any] = {"tasks": {}, "groups": {}}
    for asked in tasks:
        for name in [asked] if Path(asked).is_file() else manager.match_tasks([asked]):
            one = _with_data(manager, name, folder)
            found["tasks"] |= one["tasks"]
            found["groups"] |= one["groups"]
    for task in found["tasks"].values():
        own = task.get_config("num_fewshot")
        if own is None or (shots is not None and own != 0):
            task.set_config(key="num_fewshot", value=shots or 0)
        task.set_fewshot_seed(seed=_SEED)
    return found


def _with_data(manager: Any, name: str, folder: Path) -> Any:
    """One task, or one group; the hub is asked only where its data are not here."""
    try:
        with _hub(closed=True, cache=folder):
            return manager.load([name])
    except ConnectionError:
        pass  # its data are not here
    except Exception as error:
        raise InputError(
            f"The task '{name}' of lm-evaluation-harness cannot be loaded: {_reason(error)}"
        ) from error
    try:
        with _hub(closed=not _reached()):
            return manager.load([name])
    except ConnectionError as error:
        raise MachineError(
            f"The task '{name}' needs data from the Hugging Face hub, which cannot be reached; run "
            "it where there is a network, or take a task file with local data (--include-path)."
        ) from error
    except Exception as error:
        raise InputError(
            f"The task '{name}' of lm-evaluation-harness cannot be loaded: {_reason(error)}"
        ) from error


@contextlib.contextmanager
def _hub(*, closed: bool, cache: Path | None = None) -> Iterator[None]:
    """With no way to the hub if it is closed, and with the data sets in another cache."""
    import datasets
    import huggingface_hub

    offline = {"HF_HUB_OFFLINE": True} if closed else {}
    moved = {} if cache is None else dict.fromkeys(_CACHES, cache)
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        with (
            _swapped(huggingface_hub.constants, **offline),
            _swapped(datasets.config, **offline, **moved),
        ):
            yield
    finally:
        if shown:
            datasets.enable_progress_bars()


@contextlib.contextmanager
def _swapped(module: Any, **values: Any) -> Iterator[None]:
    """A module with other values, for a while: what it reads of the environment it read before."""
    before = {name: getattr(module, name) for name in values}
    for name, value in values.items():
        setattr(module, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)


def _reached() -> bool:
    """Whether the hub answers; data sets would try for half a minute to find out."""
    import huggingface_hub

    try:
        huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=10)
    except Exception:  # of the kind of whatever library and proxy is in between
        return False
    return True


def _variants(tasks: Mapping[str, Any]) -> dict[bool | None, list[str]]:
    """Tasks by what is said about the beginning token: nothing, or whether the tokenizer adds it.

    Left alone, the harness puts it before texts of rolling likelihood that begin with it already.
    """
    found: dict[bool | None, list[str]] = {}
    for name, task in tasks.items():
        once = ONCE in (task.get_config("metadata") or {})
        rolling = task.get_config("output_type") == "loglikelihood_rolling"
        found.setdefault(not rolling if once else None, []).append(name)
    return found


def _language_model(network: Network, variant: bool | None, batch: int | None, tick: Tick) -> Any:
    """The network as the harness runs it."""
    from lm_eval.models.huggingface import HFLM

    tokenizer = Tokenizer(network.folder)
    if tokenizer.end is None:
        raise InputError(
            f"The tokenizer of '{network.folder}' names no token that ends a text, which "
            "lm-evaluation-harness needs; set eos_token in tokenizer_config.json."
        )
    room = _LOGITS // (int(network.config.vocab_size) * network.longest)
    rows = batch or max(1, min(room, _ROWS))
    lm = HFLM(
        pretrained=network.module,
        batch_size=rows,
        add_bos_token=variant,
        max_length=None if variant is None else network.longest,
    )
    for name in _REQUESTS:
        setattr(lm, name, _in_parts(getattr(lm, name), rows * _BATCHES, tick, network.folder))
    return lm


def _in_parts(
    ask: Callable[[list[Any]], list[Any]], size: int, tick: Tick, folder: Path
) -> Callable[[list[Any]], list[Any]]:
    """Ask so many at a time, with signs of progress; a NaN must not pass for an answer."""

    def asked(requests: list[Any]) -> list[Any]:
        found: list[Any] = []
        for start in range(0, len(requests), size):
            part = ask(requests[start : start + size])
            values = [p[0] if isinstance(p, tuple) else p for p in part]
            if any(isinstance(v, float) and math.isnan(v) for v in values):
                raise NonFiniteError(f"'{folder}' gives NaN or infinity in place of outputs.")
            found += part
            tick(len(found), len(requests))
        return found

    return asked


def _evaluated(lm: Any, tasks: dict[str, Any], limit: int | None) -> Any:
    from lm_eval.evaluator import evaluate

    try:
        return evaluate(lm, tasks, limit=limit, bootstrap_iters=_DRAWS)
    except (CermetError, MemoryError):
        raise
    except Exception as error:  # a task file holds templates and code, which raise what they like
        names = ", ".join(tasks["tasks"])
        raise InputError(f"lm-evaluation-harness failed on {names}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ": ".join([type(error).__name__, *lines[:1]])


def _results(found: Mapping[str, Any]) -> list[HarnessResult]:
    results = []
    for name, values in found["results"].items():
        for key, value in values.items():
            metric, comma, filtered = key.partition(",")
            if not comma or metric.endswith("_stderr"):
                continue
            error = values.get(f"{metric}_stderr,{filtered}")
            results.append(
                HarnessResult(
                    name,
                    metric,
                    filtered,
                    float(value),
                    float(error) if isinstance(error, int | float) else None,
                    found["higher_is_better"].get(name, {}).get(metric),
                    int(values["sample_len"]),
                    *_scores(found, name, metric, filtered),
                )
            )
    return results


def _scores(
    found: Mapping[str, Any], name: str, metric: str, filtered: str
) -> tuple[tuple[float, ...], tuple[float, ...]] | tuple[None, None]:
    """What each example gave, and by what it is divided; (None, None) for anything else."""
    samples = found["samples"].get(name, [])  # groups have none
    own = [s[metric] for s in samples if s["filter"] == filtered and metric in s]
    try:
        values = np.array(own, dtype=np.float64)
    except (ValueError, TypeError):
        return None, None
    if values.ndim == 2 and found["configs"][name]["output_type"] == "loglikelihood_rolling":
        nats, sizes = values.T.tolist()
        return tuple(-n / math.log(2) for n in nats), tuple(sizes)
    if values.ndim != 1 or not len(values):
        return None, None
    return tuple(values.tolist()), (1.0,) * len(values)
