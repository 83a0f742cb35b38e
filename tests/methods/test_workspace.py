"""A method needs no more memory than it declares, measured at the allocators.

Every piece of every stage is run alone while torch's profiler lists the allocations of its CPU
allocator and tracemalloc those of NumPy. The sum of both peaks stands for the peak.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable

import pytest
import torch
from torch.autograd.profiler import profile

import cermet.engine.tensors as engine_tensors
from cermet.anatomy import survey
from cermet.engine.executors import Staged
from cermet.engine.geometry import LEAF
from cermet.engine.memory import block_bytes
from cermet.maths.native import compiled as native
from tests.methods.forms import FORMS, Form, label, pool

MANY = 9
SLACK = 0.03  # small tensors, and the objects of Python


class Gauge:
    """An executor that measures."""

    def __init__(self) -> None:
        self.peak = 0

    def run(self, jobs: Iterable[Staged]) -> None:
        """Run every piece of every job, one after another."""
        tracemalloc.start()
        try:
            start, _ = tracemalloc.get_traced_memory()
            for job in jobs:
                for stage in job.stages():
                    for piece in stage:
                        tracemalloc.reset_peak()
                        with profile(profile_memory=True) as seen:
                            piece()
                        numpy = tracemalloc.get_traced_memory()[1] - start
                        self.peak = max(self.peak, numpy + _peak(seen))
        finally:
            tracemalloc.stop()


def _peak(seen: profile) -> int:
    """The most bytes that torch held at once."""
    events = [e for e in seen.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def _counts(form: Form) -> list[int]:
    least, most = form.method.models
    return [least, MANY] if most is None else [least]


CASES = [
    form.with_experts(count)
    for form in FORMS
    if not any(need.square for need in form.method.needs)  # large beside a wide block: see below
    for count in _counts(form)
]


@pytest.mark.parametrize("kernels", ["0", "1"], ids=["torch", "kernels"])
@pytest.mark.parametrize("form", CASES, ids=label)
def test_peak_is_within_the_declared_workspace(
    form: Form, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One block of one leaf, of bfloat16 models: the base needs a copy in float32.

    What torch needs is declared; the compiled kernels need no more.
    """
    monkeypatch.setenv("CERMET_NATIVE", kernels)
    native.kernels()  # loading them is not a merge's need
    gauge = Gauge()
    monkeypatch.setattr(engine_tensors, "executor_for", lambda threads: gauge)
    base, experts = pool(form.experts, {"w": (LEAF // 2048, 2048)}, dtype=torch.bfloat16)
    form.merge(base, experts, block=LEAF)
    models = form.experts + (form.method.base == "first")
    allowed = block_bytes(form.method, models) * LEAF
    one_by_one = form.method.coefficients is not None and not form.method.rounds
    least = 4 * (1 if one_by_one else models) * LEAF if kernels == "0" else 0
    assert least <= gauge.peak <= allowed * (1 + SLACK)


MATRICES = [
    form.with_experts(count)
    for form in FORMS
    if form.grain == "matrix" and "vocabulary" not in form.parameters
    for count in _counts(form)
]


@pytest.mark.parametrize("shape", [(160, 160), (384, 96), (96, 384)], ids=str)
@pytest.mark.parametrize("form", MATRICES, ids=label)
def test_peak_of_whole_matrices(
    form: Form, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Square ones, whose Gram matrices are the largest beside them, tall and wide ones."""
    gauge = Gauge()
    monkeypatch.setattr(engine_tensors, "executor_for", lambda threads: gauge)
    base, experts = pool(form.experts, {"w": shape}, dtype=torch.bfloat16)
    form.merge(base, experts)
    place = survey({"w": shape}, {}).places["w"]
    known = {p.argument: p.default for p in form.method.parameters.values()}
    allowed = block_bytes(form.method, form.experts, place, **known) * shape[0] * shape[1]
    assert 0.1 * allowed <= gauge.peak <= allowed * (1 + SLACK) + 50_000
