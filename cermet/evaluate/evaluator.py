"""Models on tasks: from a checkpoint's folder to what it did on every example.

Many candidates of one pool are asked the same, so examples are read and tokenised once, and the
module of an architecture stays in memory while only its weights change.
"""

from __future__ import annotations

import difflib
import resource
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from cermet.core.errors import FormatError, InputError
from cermet.evaluate.answers import WAYS, Asked
from cermet.evaluate.examples import Head, Images, read_head, read_images, read_lines
from cermet.evaluate.outcomes import Outcomes
from cermet.inference.loading import Kind
from cermet.inference.network import Network
from cermet.inference.threads import with_threads
from cermet.inference.tokens import Tokenizer, tokenizer_digest
from cermet.recipes.pool import Split, Task

__all__ = ["Evaluator", "Tick", "find_task"]

Tick = Callable[[int, int], None]
"""Gets the pieces of work that are done, and all of them."""


def find_task(tasks: Sequence[Task], name: str) -> Task:
    """The task of that name; InputError with the nearest spelling where there is none."""
    known = {task.name: task for task in tasks}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean '{near[0]}'?" if near else f"There are {', '.join(known)}."
        raise InputError(f"There is no task '{name}'. {hint}")
    return known[name]


class Evaluator:
    """Runs models on tasks.

    Parameters
    ----------
    tasks: those that can be asked for. device: where models run, in float32. threads: that torch
        computes with; as many as it has by default.
    """

    def __init__(
        self, tasks: Sequence[Task], *, device: str = "cpu", threads: int | None = None
    ) -> None:
        self._tasks, self._device, self._threads = tuple(tasks), device, threads
        self._heads: dict[str, Head] = {}
        self._examples: dict[tuple[str, Split], Any] = {}
        self._tokenizers: dict[str, Tokenizer] = {}
        self._asked: dict[tuple[object, ...], Asked] = {}
        self._networks: dict[Kind, tuple[object, Network]] = {}

    def outcomes(
        self,
        model: Path,
        task: str,
        split: Split,
        limit: int | None = None,
        tick: Tick | None = None,
    ) -> Outcomes:
        """What a model does on the first `limit` examples of a split, or on all.

        Raises InputError for a model that cannot do the task, FormatError and MismatchError for
        files that are not what they should be, NonFiniteError for a model that gives NaN.
        """
        chosen = find_task(self._tasks, task)
        if limit is not None and limit < 1:
            raise InputError(f"The limit is {limit}; it has to be 1 example or more.")
        self.examples(chosen, split)  # before any model is loaded
        threads = nullcontext() if self._threads is None else with_threads(self._threads)
        with threads:
            network = self._network(model, WAYS[chosen.kind].run_as)
            asked = self._prepared(chosen, split, limit, network)
            if asked.tokenizer is not None:
                network.check_tokens(asked.highest)
            return _measured(network, asked, tick)

    def examples(self, task: Task, split: Split) -> Any:
        """All examples of a split, read once: `Images`, or what `read_lines` gives."""
        key = task.name, split
        if key not in self._examples:
            head = self._head(task)
            if task.kind == "images":
                self._examples[key] = read_images(task, split)
            else:
                self._examples[key] = read_lines(task, split, None if head is None else head.labels)
            self._check_labels(task, split, head)
        return self._examples[key]

    def _check_labels(self, task: Task, split: Split, head: Head | None) -> None:
        found = self._examples[task.name, split]
        if not isinstance(found, Images) or head is None:
            return
        outside = (found.labels < 0) | (found.labels >= head.labels)
        if bool(outside.any()):
            at = int(outside.int().argmax())
            raise FormatError(
                f"'{task.files[split]}': label {int(found.labels[at])} of image {at} is none of "
                f"the head's {head.labels}."
            )

    def _head(self, task: Task) -> Head | None:
        if task.head is not None and task.name not in self._heads:
            self._heads[task.name] = read_head(task)
        return self._heads.get(task.name)

    def _network(self, folder: Path, kind: Kind) -> Network:
        """The module of that kind with the weights of a folder, as they are on disk now."""
        stands = folder, _files(folder)
        before, network = self._networks.get(kind, (None, None))
        if network is None:
            network = Network(folder, kind, self._device)
        elif before != stands:
            self._networks.pop(kind)  # where loading fails, what is half filled is not used again
            network.load(folder)
        self._networks[kind] = stands, network
        return network

    def _prepared(self, task: Task, split: Split, limit: int | None, network: Network) -> Asked:
        digest, longest = None, 0
        if task.kind != "images":
            digest, longest = tokenizer_digest(network.folder), network.longest
        key = task.name, split, limit, digest, longest
        if key not in self._asked:
            examples = self.examples(task, split)
            if limit is not None:
                examples = examples[:limit]
            tokenizer = None if digest is None else self._tokenizer(network.folder, digest)
            way = WAYS[task.kind]
            self._asked[key] = way.prepare(task, examples, self._head(task), tokenizer, longest)
        return self._asked[key]

    def _tokenizer(self, folder: Path, digest: str) -> Tokenizer:
        if digest not in self._tokenizers:
            self._tokenizers[digest] = Tokenizer(folder)
        return self._tokenizers[digest]


def _files(folder: Path) -> tuple[tuple[str, int, int, int], ...]:
    """What tells whether a file of a folder was written anew."""
    try:
        found = [(f.name, f.stat()) for f in sorted(folder.iterdir())]
    except OSError as error:
        raise InputError(f"The model '{folder}': {error.strerror or error}.") from error
    return tuple((name, s.st_ino, s.st_size, s.st_mtime_ns) for name, s in found)


def _measured(network: Network, asked: Asked, hear: Tick | None) -> Outcomes:
    done = 0
    total = len(asked.scored) or len(asked.examples)

    def tick(new: int) -> None:
        nonlocal done
        done += new
        if hear is not None:
            hear(done, total)

    on_gpu = network.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(network.device)
    begin = time.perf_counter()
    found = WAYS[asked.task.kind].answer(network, asked, tick)
    seconds = time.perf_counter() - begin  # the results are on the CPU: nothing is under way
    peak = torch.cuda.max_memory_allocated(network.device) if on_gpu else _resident()
    return Outcomes(
        asked.task.name,
        asked.task.metric,
        found.scores.numpy(),
        found.sizes.numpy(),
        found.answers.numpy(),
        seconds,
        asked.tokens + found.written,
        peak,
    )


def _resident() -> int:
    """Bytes of memory that this process has had at most."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
