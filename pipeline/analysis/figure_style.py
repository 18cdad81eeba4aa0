"""How every figure looks, and how it is written: the same data give the same bytes."""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

WIDTH = 4.7  # inches: on a phone the figure is scaled to about 0.8, and 10 points stay legible
PANEL_HEIGHT = 3.6
_TITLE_CHARACTERS = 44
_LEGEND_LINES = 4.4  # of the legend, between a panel and the legend below it: room for ticks and axis label
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*", "<", ">", "h", "p")

_SETTINGS: Any = {
    "svg.hashsalt": "train-large-then-compress",
    "svg.fonttype": "none",  # letters stay letters: as outlines they are half of a figure
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.labelsize": 10,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.dpi": 100,
    "savefig.dpi": 160,
}


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Draw within: seaborn's whitegrid, left-aligned titles, no effect outside."""
    with mpl.rc_context(), sns.axes_style("whitegrid"):
        mpl.rcParams.update(_SETTINGS)
        yield


def panels(count: int, *, height: float = PANEL_HEIGHT) -> tuple[Figure, list[Axes]]:
    """Return a figure of `count` panels, one above the other, as a phone shows them."""
    figure = Figure(figsize=(WIDTH, height * count))
    figure.set_layout_engine("constrained", h_pad=0.12, hspace=0.06)
    return figure, list(figure.subplots(count, 1, squeeze=False)[:, 0])


def size_style(sizes: Sequence[str]) -> dict[str, tuple[Any, str]]:
    """Return {size: (colour, marker)} from seaborn's colour-blind palette, in the order given."""
    colours = sns.color_palette("colorblind", max(1, len(sizes)))
    return {size: (colours[i], MARKERS[i % len(MARKERS)]) for i, size in enumerate(sizes)}


def title(axes: Axes, text: str) -> None:
    """Write what is seen above the panel, broken to its width."""
    axes.set_title("\n".join(textwrap.wrap(text, _TITLE_CHARACTERS)))


def log_ticks(axis: Axis, *, steps: Sequence[float] = (1, 2, 5), unit: Callable[[float], str] = "{:g}".format) -> None:
    """Label a logarithmic axis with plain numbers at `steps` of each decade, written by `unit`."""
    axis.set_major_locator(LogLocator(base=10, subs=tuple(steps)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: unit(value)))
    axis.set_minor_formatter(NullFormatter())


def legend_below(axes: Axes, *, columns: int | None = None) -> None:
    """Put the legend under the panel, where it covers no point."""
    handles, labels = axes.get_legend_handles_labels()
    if not handles:
        return
    columns = columns or (len(handles) if len(handles) <= 3 else 3)
    below: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.45, 0), "borderaxespad": _LEGEND_LINES}
    axes.legend(handles, labels, ncols=columns, columnspacing=1.2, **below)


def empty(axes: Axes, text: str) -> None:
    """Say in the panel that there is nothing to draw."""
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, color="0.4")
    axes.set_axis_off()


def is_empty(figure: Figure) -> bool:
    """Tell whether no panel of a figure has anything but the words of `empty`."""
    return not any(axes.axison for axes in figure.axes)


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write `name`.svg and `name`.png to `folder`, without dates, and with every label whole."""
    figure.savefig(folder / f"{name}.svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    figure.savefig(folder / f"{name}.png", bbox_inches="tight", metadata={"Software": None})
