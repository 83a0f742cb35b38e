"""`diagnose`: a merge run beside its sources, as the first look at one that went wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cermet.checkpoints.hub import locate
from cermet.engine.record import record_in, run_folder
from cermet.recipes.opening import folder_of
from cermet.recipes.schema import parse_model

__all__ = ["Look", "diagnose"]


@dataclass(frozen=True)
class Look:
    """One model, run on a few sentences beside the others.

    loss: mean negative log-likelihood in nats, None where the model predicts no tokens.
    agreement: share of positions at which it prefers the token that the merge prefers.
    """

    name: str
    architecture: str
    finite: bool
    loss: float | None
    agreement: float | None


def diagnose(path: str | Path) -> tuple[list[Look], str]:
    """Load a merge and its sources with transformers and compare them on a few sentences.

    Returns one row for each, the merge first, and one sentence of conclusion.
    """
    from cermet.inference.logits import outputs_of

    record = record_in(Path(path))
    merged = outputs_of(Path(path))
    rows = [Look(str(path), merged.architecture, merged.finite, merged.loss, None)]
    root = run_folder(Path(path), record)
    for model in record["models"]:
        reference = parse_model(model["name"])
        adapter = None
        if reference.lora is not None:
            adapter = locate(reference.lora, reference.lora_revision, root)
        found = outputs_of(folder_of(reference, root), adapter)
        agreement = found.agreement(merged)
        rows.append(Look(model["name"], found.architecture, found.finite, found.loss, agreement))
    return rows, _verdict(rows)


def _verdict(rows: Sequence[Look]) -> str:
    merged, *sources = rows
    if not merged.finite:
        return "The merge gives NaN or infinity: it is broken."
    losses = [s.loss for s in sources if s.loss is not None]
    if merged.loss is None or not losses:
        return "The merge loads and gives finite outputs."
    worst = max(losses)
    if merged.loss > worst + 1.0:
        return (
            f"The merge is far more surprised by plain text ({merged.loss:.2f} nats a token) than "
            f"its worst source ({worst:.2f}): try smaller weights, a higher density, or check that "
            "the models share a base."
        )
    return f"The merge reads plain text about as well as its sources ({merged.loss:.2f} nats)."
