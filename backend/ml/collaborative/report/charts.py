"""Charts as SVG that takes its colours and letters from the page it is put into."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

INK, QUIET, LINE, MAIN, SECOND = "#010101", "#020202", "#030303", "#040404", "#050505"
"""Stand for the page's colours of these names; no other colour is drawn with."""

_VARIABLES = {INK: "ink", QUIET: "quiet", LINE: "line", MAIN: "main", SECOND: "second"}
WIDTH = 4.2
"""Inches; 302 units of the SVG, so that its letters of 10 units are legible on a phone."""


def funnel(stages: Sequence[tuple[str, int]]) -> str:
    """Draw bars of what is left after each stage, with the counts."""
    names, counts = zip(*stages, strict=True)
    figure, axes = _make(0.45 * len(stages))
    axes.barh(range(len(counts)), counts, height=0.22, color=MAIN)
    for place, (name, count) in enumerate(stages):
        axes.text(0, place - 0.22, f"{count:,}  {name}", color=INK, va="bottom")
    axes.set_ylim(len(names) - 0.6, -0.75)
    axes.set_axis_off()
    return _svg(figure)


def compare(values: Mapping[str, float], label: str, *, digits: int = 4) -> str:
    """Draw a dot with its value for each name on one axis, the first in the main colour."""
    figure, axes = _make(0.6 + 0.42 * len(values))
    low, high = min(values.values()), max(values.values())
    margin = (high - low) * 0.3 or 0.1
    for place, (name, value) in enumerate(values.items()):
        colour = QUIET if place else MAIN
        axes.axhline(place, color=LINE, zorder=0)
        axes.plot(value, place, "o", color=colour, markersize=7)
        axes.annotate(
            f"{name}  {value:.{digits}f}", (value, place), (0, 5), textcoords="offset points",
            ha="center", va="bottom", color=colour if not place else INK,
        )  # fmt: skip
    axes.set_xlim(low - 2 * margin, high + 2 * margin)
    axes.set_ylim(len(values) - 0.7, -0.8)
    axes.set_yticks([])
    axes.locator_params("x", nbins=5)
    axes.set_xlabel(label)
    return _svg(figure)


def curves(
    lines: Sequence[Sequence[float]], level: float | None, names: Sequence[str], xlabel: str
) -> str:
    """Draw the RMSE after each step.

    Args:
        lines: one or more of them.
        level: of a line across, in the main colour; without one, that is the colour of the lines.
        names: of the lines, and of the level.
        xlabel: what a step is.
    """
    figure, axes = _make(2.6)
    for n, values in enumerate(lines):
        axes.plot(
            range(1, len(values) + 1), values, color=MAIN if level is None else QUIET,
            linewidth=2 if level is None else 1, label=None if n else names[0],
        )  # fmt: skip
    if level is not None:
        axes.axhline(level, color=MAIN, linewidth=2, label=names[1])
    axes.set_xlabel(xlabel)
    axes.set_ylabel("RMSE")
    axes.legend(frameon=False, loc="upper right", labelcolor=INK)
    return _svg(figure)


def distribution(
    groups: Mapping[str, NDArray[np.float64]], predictions: NDArray[np.float64]
) -> str:
    """Draw the share of each star in each group, and of predictions in quarter steps."""
    figure, axes = _make(2.6)
    step = 0.5 if any((ratings % 1).any() for ratings in groups.values()) else 1.0
    width = 0.8 * step / len(groups)
    for n, (name, ratings) in enumerate(groups.items()):
        stars, counts = np.unique(ratings, return_counts=True)
        places = stars + (n - (len(groups) - 1) / 2) * width
        colour = (QUIET, SECOND)[n]
        axes.bar(places, counts / len(ratings) / step, width, color=colour, label=name)
    edges = np.arange(0.375, 5.4, 0.25)
    counts, _ = np.histogram(predictions, edges)
    axes.stairs(
        counts / len(predictions) / 0.25, edges, color=MAIN, linewidth=2, label="predictions"
    )
    axes.set_xlabel("stars")
    axes.set_ylabel("share per star")
    axes.set_ylim(0, 1.25 * axes.get_ylim()[1])  # room for the legend
    axes.set_xlim(0.25, 5.5)
    axes.legend(frameon=False, loc="upper left", labelcolor=INK)
    return _svg(figure)


def calibration(predictions: NDArray[np.float64], ratings: NDArray[np.float64]) -> str:
    """Draw mean ratings by tenths of the predictions, with two standard errors."""
    figure, axes = _make(2.6)
    order = np.argsort(predictions, kind="stable")
    parts = [part for part in np.array_split(order, 10) if len(part)]
    x = [predictions[part].mean() for part in parts]
    y = [ratings[part].mean() for part in parts]
    errors = [2 * ratings[part].std() / len(part) ** 0.5 for part in parts]
    ends = min(x + y), max(x + y)
    axes.plot(ends, ends, color=QUIET, linewidth=1)
    axes.errorbar(x, y, errors, fmt="o-", color=MAIN, markersize=4, linewidth=1.5)
    axes.set_xlabel("mean prediction, stars")
    axes.set_ylabel("mean rating, stars")
    return _svg(figure)


def _make(height: float) -> tuple[Figure, Axes]:
    with _style():
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.add_subplot()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0)
    axes.grid(visible=True, axis="y", color=LINE, linewidth=1)
    axes.set_axisbelow(True)
    return figure, axes


def _style() -> AbstractContextManager[None]:
    return mpl.rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "ml",
            "font.size": 10,
            "text.color": INK,
            "axes.labelcolor": QUIET,
            "axes.edgecolor": LINE,
            "xtick.labelcolor": QUIET,
            "ytick.labelcolor": QUIET,
        }
    )


def _svg(figure: Figure) -> str:
    """Return the SVG element, with only those ids that are referred to."""
    buffer = io.StringIO()
    with _style():
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text)
    return re.sub("|".join(_VARIABLES), lambda found: f"var(--{_VARIABLES[found.group()]})", text)
