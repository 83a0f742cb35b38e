"""Makes the pools, runs both tools, judges, and prints what came of it."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parity.faults import FAULTS
from parity.inputs import Checkpoint
from parity.judge import Outcome, judge
from parity.peer import peer_environment, peer_python
from parity.pools import build_pools
from parity.recipes import CASES, FLOORS, Case, check_coverage, coverage, make_cases
from parity.settings import METHODS

__all__ = ["Merge", "Options", "run_suite"]

Merge = Callable[[Mapping[str, Any], Path], object]
"""Merges a recipe into a folder, as `cermet.api.merge` does."""

_WORKER = Path(__file__).resolve().parent / "worker.py"
_SHOWN = 20  # failed cases that are printed in full
_MOST_DOUBT = 0.20  # share of a method's elements that may be left out as ties


@dataclass(frozen=True, slots=True)
class Options:
    """How many cases, from which seed, which of them, and where the files go.

    only: numbers of cases or names of methods; empty for all. folder: kept afterwards;
    None for a temporary one.
    """

    cases: int
    seed: int
    only: tuple[str, ...] = ()
    folder: Path | None = None

    @property
    def complete(self) -> bool:
        """Whether the run is held to the counts that the suite promises."""
        return not self.only and self.cases >= CASES


def run_suite(options: Options, merge: Merge) -> int:
    """Run, compare, print; 0 where everything agrees, else 1."""
    began = time.monotonic()
    python = peer_python()
    with tempfile.TemporaryDirectory(prefix="cermet-parity-") as temporary:
        folder = options.folder or Path(temporary)
        cases = _choose(
            make_cases(build_pools(folder, options.seed), options.cases, options.seed), options
        )
        outcomes = _run(cases, folder, python, merge)
    lacking = _report(outcomes, options)
    failed = sum(bool(o.problems) for o in outcomes)
    print(f"{time.monotonic() - began:.0f} s")
    print(f"{len(outcomes) - failed} passed, {failed + lacking} failed")
    return 1 if failed + lacking else 0


def _choose(cases: list[Case], options: Options) -> list[Case]:
    if not options.only:
        return cases
    chosen = [c for c in cases if c.method in options.only or str(c.index) in options.only]
    if not chosen:
        raise SystemExit(f"No case is named by --only {','.join(options.only)}.")
    return chosen


def _run(cases: Sequence[Case], folder: Path, python: Path, merge: Merge) -> list[Outcome]:
    """Both tools at once, one thread each; then the comparison."""
    jobs = []
    for case in cases:
        jobs.append({"id": f"{case.index}", "recipe": case.recipe})
        if case.twin is not None:
            jobs.append({"id": f"{case.index}-twin", "recipe": case.twin})
    for job in jobs:
        job["out"] = str(folder / "peer" / str(job["id"]))
    listed = folder / "jobs.json"
    listed.write_text(json.dumps(jobs))
    print(f"{len(cases)} recipes, {len(jobs)} merges by the peer.", flush=True)
    with (folder / "peer.jsonl").open("w") as said, (folder / "peer.log").open("w") as log:
        peer = subprocess.Popen(
            [str(python), str(_WORKER), str(listed)],
            stdout=said,
            stderr=log,
            env=peer_environment(threads=1),
        )
        try:
            own = {c.index: _ours(c, folder / "ours" / str(c.index), merge) for c in cases}
            pool: dict[str, Checkpoint] = {}
            outcomes = []
            for case in cases:  # while the peer is still at later ones
                errors = _errors(case, folder, peer, len(jobs))
                outcomes.append(_outcome(case, folder, own[case.index], errors, pool))
        finally:
            peer.kill()
            peer.wait()
    return outcomes


def _errors(
    case: Case, folder: Path, peer: subprocess.Popen[bytes], jobs: int
) -> dict[str, str | None]:
    """How the peer's merges of a case, and those before them, went; waits for them."""
    wanted = {f"{case.index}", *(() if case.twin is None else (f"{case.index}-twin",))}
    while True:
        ended = peer.poll() is not None  # asked first: what it said last is in the file then
        lines = (folder / "peer.jsonl").read_text().splitlines(keepends=True)
        whole = [json.loads(line) for line in lines if line.endswith("\n")]
        errors = {line["id"]: line["error"] for line in whole}
        if wanted <= errors.keys():
            return errors
        if ended:
            said = (folder / "peer.log").read_text()[-2000:]
            raise SystemExit(f"The peer stopped after {len(errors)} of {jobs} merges:\n{said}")
        time.sleep(0.05)


def _ours(case: Case, out: Path, merge: Merge) -> str | None:
    """What went wrong in our merge; None where nothing did."""
    try:
        merge(case.recipe, out)
    except Exception as failure:  # a failed case must not hide the others
        return f"{type(failure).__name__}: {failure}"
    return None


def _outcome(
    case: Case,
    folder: Path,
    own: str | None,
    errors: Mapping[str, str | None],
    pool: dict[str, Checkpoint],
) -> Outcome:
    peer = folder / "peer" / str(case.index)
    twin = peer if case.twin is None else folder / "peer" / f"{case.index}-twin"
    for job in {peer.name, twin.name}:
        if errors[job] is not None:
            return Outcome(case, [f"the peer refused the recipe ({job}): {errors[job]}"])
    if own is not None:
        return Outcome(case, [f"our merge failed: {own}"])
    return judge(case, folder / "ours" / str(case.index), peer, twin, pool)


def _report(outcomes: Sequence[Outcome], options: Options) -> int:
    """Print failures, the table and the counts; how much a full run lacks."""
    failed = [o for o in outcomes if o.problems]
    for outcome in failed[:_SHOWN]:
        case = outcome.case
        print(f"\nFAILED case {case.index}: {case.method}, {case.family}, {case.kind}")
        for problem in outcome.problems[:4]:
            print(f"  {problem}")
        if len(outcome.problems) > 4:
            print(f"  and {len(outcome.problems) - 4} more")
        print(f"  recipe: {json.dumps(case.recipe)}")
    if len(failed) > _SHOWN:
        print(f"\n{len(failed) - _SHOWN} more cases failed; --only shows any of them:")
        print("  " + ",".join(str(o.case.index) for o in failed[_SHOWN:]))
    lacking = _print_table(outcomes)
    _print_counts(outcomes, options)
    if options.complete:
        lacking += check_coverage([o.case for o in outcomes])
    for line in lacking:
        print(f"LACKING {line}")
    return len(lacking)


def _print_table(outcomes: Sequence[Outcome]) -> list[str]:
    head = ("method", "cases", "failed", "tensors", "worst f32", "worst bf16", "unexplained")
    print(
        "\n"
        + "{:17}{:>6}{:>7}{:>8}{:>11}{:>11}{:>12}{:>9}{:>9}".format(*head, "in doubt", "excused")
    )
    lacking = []
    for method in METHODS:
        rows = [o for o in outcomes if o.case.method == method]
        if not rows:
            continue
        elements = sum(o.elements for o in rows)
        doubt = sum(o.doubtful for o in rows) / max(elements, 1)
        if doubt > _MOST_DOUBT:
            lacking.append(f"{method}: {doubt:.1%} of the elements stand at a threshold")
        excused = sum(sum(o.excused.values()) for o in rows)
        rest = max(o.rest for o in rows)
        print(
            f"{method:17}{len(rows):6}{sum(bool(o.problems) for o in rows):7}"
            f"{sum(o.tensors for o in rows):8}{max(o.error for o in rows):11.1e}"
            f"{max(o.units for o in rows):11.2f}{rest:12.2f}{doubt:9.2%}{excused:9}"
        )
    print(
        "worst f32: of the tensor's largest magnitude (limit 1e-5). worst bf16: units in the\n"
        "last place (limit 1). unexplained: the part of a random output that no subset of\n"
        "experts gives, as a share of what rounding allows (limit 1). in doubt: elements at a\n"
        "threshold, not compared. excused: tensors that a fault of the peer excuses."
    )
    return lacking


def _print_counts(outcomes: Sequence[Outcome], options: Options) -> None:
    counts = coverage(o.case for o in outcomes)
    words = ", ".join(f"{name} {counts[name]} (at least {n})" for name, n in FLOORS.items())
    held = "" if options.complete else " (a partial run: not held to them)"
    print(f"\nRecipes with {words}{held}.")
    kinds = Counter(o.case.kind for o in outcomes)
    print("Compared as " + ", ".join(f"{kind} {n}" for kind, n in sorted(kinds.items())) + ".")
    excused = sum((o.excused for o in outcomes), Counter[str]())
    for fault in FAULTS:
        if excused[fault.name]:
            print(f"Fault '{fault.name}' ({excused[fault.name]} tensors): {fault.reason}.")
