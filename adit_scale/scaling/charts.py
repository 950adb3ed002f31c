"""A figure as data: panels of marks, lines and bands on labelled axes. Drawn by chart_png and chart_html.

The builders (figures_*.py) say what is shown, these two how: so print and screen cannot differ in content.
Any text may hold ``^{...}`` and ``_{...}``: N^{-0.25}, N_{opt}. Nothing else in a text is markup.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

# Okabe and Ito's colours (jfly.uni-koeln.de/color), told apart with any common colour vision and in grey.
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, YELLOW, BLACK, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000", "#777777",
)  # fmt: skip
SHAPES = ("circle", "square", "triangle", "diamond", "cross")
DASHES = ("solid", "dash", "dot")


@dataclass(frozen=True)
class Axis:
    """label: with its unit. percent: fractions, shown as per cent. low, high: limits, None is auto."""

    label: str
    log: bool = False
    percent: bool = False
    low: float | None = None
    high: float | None = None
    categories: Sequence[str] = ()  # names of the positions 0, 1, 2 ...


@dataclass(frozen=True)
class Marks:
    """Points with vertical intervals. x, y, low, high: (P,), NaN where there is none. text: on hover."""

    x: Sequence[float]
    y: Sequence[float]
    name: str = ""  # in the legend; one name is shown once a figure
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    text: Sequence[str] = ()
    colour: str = BLUE
    shape: str = "circle"
    filled: bool = True


@dataclass(frozen=True)
class Line:
    x: Sequence[float]
    y: Sequence[float]
    name: str = ""
    colour: str = BLACK
    dash: str = "solid"
    width: float = 1.6


@dataclass(frozen=True)
class Band:
    """Between low and high, each (P,)."""

    x: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    name: str = ""
    colour: str = GREY


@dataclass(frozen=True)
class Rule:
    """A straight line across the panel at one value of ``axis`` ("x" or "y"), with its name beside it."""

    value: float
    axis: str = "y"
    name: str = ""
    colour: str = GREY
    dash: str = "dash"


@dataclass(frozen=True)
class Bars:
    """Bars at x, from 0 to y, with intervals."""

    x: Sequence[float]
    y: Sequence[float]
    name: str = ""
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    text: Sequence[str] = ()
    colour: str = BLUE


Item = Marks | Line | Band | Rule | Bars


@dataclass(frozen=True)
class Panel:
    x: Axis
    y: Axis
    items: Sequence[Item]
    title: str = ""


@dataclass(frozen=True)
class Chart:
    """One figure. key: its file's stem. caption: what is drawn and what its intervals hold, in one or two
    sentences. columns: panels a row."""

    key: str
    title: str
    panels: Sequence[Panel]
    caption: str = ""
    columns: int = 2
    notes: Sequence[str] = field(default_factory=tuple)
