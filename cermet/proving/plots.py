"""Two pictures of a bench: quality against bytes, and against the number of experts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cermet.core.brevity import brief
from cermet.core.errors import DiskError, ExtraError
from cermet.proving.table import Row, Table, across, tables

__all__ = ["draw", "frontier"]

_LOOKS: Mapping[str, tuple[str, str]] = {
    "reference": ("#000000", "s"),
    "merge": ("#0072B2", "o"),
    "assembly": ("#D55E00", "^"),
    "codec": ("#009E73", "D"),
    "adapter": ("#CC79A7", "v"),
}
"""A colour and a mark for each kind, of Okabe and Ito: told apart by every kind of eye."""

_NAMES: Mapping[str, str] = {
    "reference": "single models, and experts kept apart",
    "merge": "one merged model",
    "assembly": "merged model and parts of each expert",
    "codec": "base and compressed deltas",
    "adapter": "base and one merged adapter",
}
_LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKS = "o^Dvs*X"
_GREY = "#777777"
_GAIN = 1e-3
_Box = tuple[float, float, float, float]  # left, right, bottom, top, in pixels


def frontier(rows: Sequence[Row]) -> list[Row]:
    """Rows that no other beats in bytes and quality, from the smallest to the best.

    What is better by less than a thousandth of the experts is not better.
    """
    found = list[Row]()
    for row in sorted(rows, key=lambda row: (row.bytes, -row.normalised, row.name)):
        if not found or row.normalised >= found[-1].normalised + _GAIN:
            found.append(row)
    return found


def draw(lines: Sequence[Mapping[str, Any]], folder: Path) -> list[Path]:
    """Write bytes.svg and bytes.png, and experts.* where pools of several sizes were measured.

    lines: records, one at least of test.

    Raises ExtraError without matplotlib, DiskError where a file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ExtraError(
            "Pictures need matplotlib: pip install 'cermet[plots]', then run the bench with --show."
        ) from error
    whole, sizes = tables(lines)[0], across(lines)
    written = _saved(_against_bytes(Figure(figsize=(9, 6)), whole), folder / "bytes")
    if sizes:
        written += _saved(
            _against_experts(Figure(figsize=(8, 5.5)), whole, sizes), folder / "experts"
        )
    return written


def _saved(figure: Any, path: Path) -> list[Path]:
    """SVG and PNG; the same records give the same SVG file."""
    import matplotlib

    written = [path.with_suffix(".svg"), path.with_suffix(".png")]
    try:
        with matplotlib.rc_context({"svg.hashsalt": "cermet", "svg.fonttype": "none"}):
            figure.savefig(written[0], metadata={"Date": None})
            figure.savefig(written[1], dpi=150)
    except OSError as error:
        raise DiskError(f"'{path}': {error.strerror or error}.") from error
    return written


def _against_bytes(figure: Any, table: Table) -> Any:
    axes = figure.add_subplot()
    rows = [row for row in table.rows if not row.name.startswith("expert: ")]
    for kind, (colour, mark) in _LOOKS.items():
        of_kind = [row for row in rows if row.kind == kind]
        if of_kind:
            axes.scatter(
                [row.bytes for row in of_kind], [100 * row.normalised for row in of_kind],
                c=colour, marker=mark, s=34, alpha=0.75, linewidths=0, label=_NAMES[kind], zorder=3,
            )  # fmt: skip
    best = frontier([row for row in rows if row.name != "multi-task"])
    axes.plot(
        [row.bytes for row in best], [100 * row.normalised for row in best],
        color=_GREY, linewidth=1, drawstyle="steps-post", label="frontier", zorder=2,
    )  # fmt: skip
    axes.axhline(100, color=_GREY, linewidth=0.6, linestyle=":")
    axes.set_xscale("log")
    _ticks(axes, rows)
    about = f"{table.experts} experts, {len(table.seeds)} seed{'s' if len(table.seeds) > 1 else ''}"
    _plain(axes, table, "bytes of all that is needed to run it (logarithmic)", about)
    axes.legend(loc="lower right", fontsize=8, frameon=False)
    figure.tight_layout()
    points = [(row.bytes, 100 * row.normalised) for row in rows]
    named = [(row.name, row.bytes, 100 * row.normalised) for row in _named(rows, best)]
    _labels(figure, axes, named, points)
    return figure


def _named(rows: Sequence[Row], best: Sequence[Row]) -> list[Row]:
    """The rows whose names are written: the frontier, references, and the best of each kind."""
    chosen = [*best, *(row for row in rows if row.kind == "reference")]
    for kind in _LOOKS:
        chosen += [row for row in rows if row.kind == kind][: 3 if kind == "merge" else 2]
    chosen += [row for row in rows if row.name in ("linear", "task_arithmetic", "ties")]
    return list({row.name: row for row in chosen}.values())


def _ticks(axes: Any, rows: Sequence[Row]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

    low, high = min(row.bytes for row in rows), max(row.bytes for row in rows)
    axes.set_xlim(low / 1.5, high * 1.5)
    steps = [m * 10**e for e in range(16) for m in (1, 2, 5)]
    axes.xaxis.set_major_locator(FixedLocator([s for s in steps if low / 1.5 <= s <= high * 1.5]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, place: brief(int(value), "B")))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _plain(axes: Any, table: Table, below: str, about: str) -> None:
    metrics = " and ".join(metric.replace("_", " ") for metric in table.metrics)
    axes.set_xlabel(below)
    axes.set_ylabel(f"{metrics}, % of the experts (mean over tasks)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#dddddd", linewidth=0.5, zorder=0)
    axes.set_title(f"{table.pool}: {about}", fontsize=11, loc="left")


def _labels(
    figure: Any,
    axes: Any,
    named: Sequence[tuple[str, float, float]],
    points: Sequence[tuple[float, float]],
) -> None:
    """Write names beside their points, moved up or down until none covers another or a point."""
    from matplotlib.patheffects import withStroke

    figure.canvas.draw()
    room, half = figure.dpi / 72 * 9, figure.dpi / 72 * 3.5
    taken = list[_Box]()
    for place in axes.transData.transform(list(points)) if points else ():
        taken.append((place[0] - half, place[0] + half, place[1] - half, place[1] + half))
    left, right = axes.bbox.x0, axes.bbox.x1
    for name, x, y in sorted(named, key=lambda one: -one[2]):
        at_x, at_y = axes.transData.transform((x, y))
        width = 0.56 * room * len(name)
        to_left = at_x + width + room > right and at_x - width - room > left
        begin = at_x - width - 0.7 * room if to_left else at_x + 0.7 * room
        middle = _free(begin, at_y, width, room, taken, (axes.bbox.y0, axes.bbox.y1))
        taken.append((begin, begin + width, middle - room / 2, middle + room / 2))
        moved = abs(middle - at_y) > room
        axes.annotate(
            name, (x, y), xytext=axes.transData.inverted().transform((begin, middle)),
            fontsize=7.5, va="center", ha="left", zorder=4,
            path_effects=[withStroke(linewidth=2, foreground="white")],
            arrowprops={"arrowstyle": "-", "color": _GREY, "linewidth": 0.4} if moved else None,
        )  # fmt: skip


def _free(
    begin: float,
    wanted: float,
    width: float,
    height: float,
    taken: Sequence[_Box],
    inside: tuple[float, float],
) -> float:
    """The middle nearest to the one wanted at which a label covers nothing that stands."""
    beside = [t for t in taken if begin < t[1] and t[0] < begin + width]
    for step in range(400):
        place = wanted + height / 4 * (step // 2 + step % 2) * (-1 if step % 2 else 1)
        if not inside[0] <= place <= inside[1]:
            continue
        if all(place + height / 2 <= t[2] or t[3] <= place - height / 2 for t in beside):
            return place
    return wanted


def _against_experts(figure: Any, table: Table, lines: Mapping[str, Sequence[Row]]) -> Any:
    axes = figure.add_subplot()
    most = max(len(rows) for rows in lines.values())
    kept = {name: rows for name, rows in lines.items() if len(rows) == most}
    ordered = sorted(kept.items(), key=lambda item: -item[1][-1].normalised)
    for place, (name, rows) in enumerate(ordered):
        counts = [row.experts for row in rows]
        colour = _GREY if name == "base" else _LINES[place % len(_LINES)]
        axes.plot(
            counts, [100 * row.normalised for row in rows], color=colour, linewidth=1.5,
            marker=_MARKS[place % len(_MARKS)], markersize=5, label=name,
            linestyle="--" if name == "base" else "-", zorder=3,
        )  # fmt: skip
        axes.fill_between(
            counts, [100 * row.low for row in rows], [100 * row.high for row in rows],
            color=colour, alpha=0.12, linewidth=0,
        )  # fmt: skip
    first = next(iter(kept.values()))
    axes.set_xticks([row.experts for row in first])
    _plain(
        axes,
        table,
        "experts, the first so many of the pool",
        "quality against the number of experts",
    )
    axes.set_xlim(right=first[-1].experts + 0.28 * (first[-1].experts - first[0].experts))
    figure.tight_layout()
    ends = [(name, rows[-1].experts, 100 * rows[-1].normalised) for name, rows in ordered]
    _labels(figure, axes, ends, [])
    return figure
