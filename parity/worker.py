"""Runs recipes through mergekit; started by the suite with the peer's own interpreter.

Input: a JSON list of jobs, each `{"id", "recipe", "out"}`. For every job the merged model
is written to `out`, with `plan.json` beside it: for each output tensor the sources, the
base and the parameters as the peer resolved them. A line of JSON on standard output says
how each job went: `{"id", "error"}`, error null where it went well.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

__all__ = ["main"]


def _describe(planner: Any) -> dict[str, Any]:
    """Sources and parameters of every tensor that the peer has planned."""
    plan = {}
    for weight, task in planner._tensors:
        given = (
            task.gather_tensors
        )  # in another vocabulary, they stand inside of what permutes them
        gathered = getattr(given, "gather_tensors", given).weight_info
        plan[weight.name] = {
            "sources": [[str(m), _names(gathered[m])] for m in task.model_order],
            "base": None if task.base_model is None else str(task.base_model),
            "once": dict(task.parameters.items()),
            "each": {str(m): dict(p.items()) for m, p in task.input_parameters.items()},
        }
    return plan


def _names(weight: Any) -> list[str]:
    return [weight.name, *(weight.aliases or ()), *(weight.tied_names or ())]


def _merge(job: dict[str, Any], options: Any) -> None:
    from mergekit import merge  # type: ignore[import-not-found, unused-ignore]
    from mergekit.config import MergeConfiguration  # type: ignore[import-not-found, unused-ignore]
    from mergekit.plan import MergePlanner  # type: ignore[import-not-found, unused-ignore]

    plans: list[dict[str, Any]] = []

    class Recorder(MergePlanner):  # type: ignore[misc]
        def plan_to_disk(self, out_path: str) -> Any:
            tasks = super().plan_to_disk(out_path)
            plans.append(_describe(self))
            return tasks

    merge.MergePlanner = Recorder
    merge.run_merge(MergeConfiguration.model_validate(job["recipe"]), job["out"], options)
    Path(job["out"], "plan.json").write_text(json.dumps(plans[0]))


def main(jobs_file: str) -> None:
    """Run every job of the list; a job that fails does not stop the others."""
    from mergekit.options import MergeOptions  # type: ignore[import-not-found, unused-ignore]

    logging.disable(logging.WARNING)
    options = MergeOptions(
        copy_tokenizer=False, write_model_card=False, clone_tensors=True, quiet=True, random_seed=1
    )
    for job in json.loads(Path(jobs_file).read_text()):
        error = None
        try:
            _merge(job, options)
        except Exception as failure:  # what it was is the suite's to report
            error = f"{type(failure).__name__}: {failure}"
        print(json.dumps({"id": job["id"], "error": error}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
