"""What print and screen share of a figure: limits, ticks, words, places of bars and of names beside rules.

Nothing here draws. Values that no axis can hold (NaN, infinite, beyond 1e300, on log axes not positive)
become NaN and are left out; the end of an interval that lies there becomes the axis's limit.
"""

# ruff: noqa: RUF001 (true minus signs in text for readers)

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from adit_scale.scaling.charts import Axis, Band, Bars, Chart, Item, Line, Marks, Panel, Rule
from adit_scale.scaling.results import Array
from adit_scale.scaling.table import parameters

LARGEST, SMALLEST = 1e300, 1e-300
MOST_TICKS = 6
LEGEND_WIDTH = 30  # characters of a name before it breaks
NAME_LINES = 4
RAISED = re.compile(r"([\^_])\{([\w+\-−·./ ]{1,40})\}")  # in any text: 10^{18}, N_{opt}
DENSITIES = ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,))  # of ticks in a decade
MARKUP = "\ue000"  # stands for a piece of it; plain() leaves no such character in a text
RULE_GAP = 0.055  # of a panel's height or width: between names beside rules


@dataclass(frozen=True)
class Frame:
    """An axis ready to draw: limits, ticks with their texts, ticks without. empty: no value stands on it."""

    low: float
    high: float
    ticks: Sequence[float]
    texts: Sequence[str]
    minor: Sequence[float] = ()
    empty: bool = False


def drawable(values: Sequence[float] | Array, axis: Axis) -> Array:
    """(P,) floats, NaN where the axis cannot hold the value; 0 for what a linear axis cannot tell from it."""
    v = np.array(values, dtype=float)
    if axis.log:
        return np.where((v >= SMALLEST) & (v <= LARGEST), v, np.nan)
    return np.where(np.abs(v) <= LARGEST, np.where(np.abs(v) < SMALLEST, 0.0, v), np.nan)


def interval_ends(item: Marks | Bars | Band, axis: Axis, frame: Frame) -> tuple[Array, Array] | None:
    """(low, high), each (P,), for drawing; NaN where the item states none. None where it has no intervals."""
    if not len(item.low) or not len(item.high):
        return None
    low, high = np.array(item.low, dtype=float), np.array(item.high, dtype=float)
    at_low, at_high = drawable(low, axis), drawable(high, axis)
    at_low = np.where(np.isnan(at_low) & ~np.isnan(low), frame.low, at_low)
    return at_low, np.where(np.isnan(at_high) & ~np.isnan(high), frame.high, at_high)


def error_lengths(y: Array, ends: tuple[Array, Array] | None) -> tuple[Array, Array] | None:
    """Lengths below and above y, each (P,), 0 where there is none or where rounding leaves y outside."""
    if ends is None:
        return None
    return tuple(np.nan_to_num(np.maximum(length, 0.0)) for length in (y - ends[0], ends[1] - y))  # type: ignore[return-value]


def bar_boxes(panel: Panel) -> list[tuple[Bars, Array, Array, Array]]:
    """Each Bars of the panel with centres, left and right edges, (P,). Series at the same x stand abreast."""
    series = [item for item in panel.items if isinstance(item, Bars)]
    at = [np.log10(drawable(b.x, panel.x)) if panel.x.log else drawable(b.x, panel.x) for b in series]
    places = np.unique(np.concatenate([a[np.isfinite(a)] for a in at])) if at else np.empty(0)
    gap = float(np.diff(places).min()) if len(places) > 1 else (0.5 if panel.x.log else 1.0)
    gap = min(gap, 1.0) if panel.x.categories else gap
    shared = any(np.isin(a, b).any() for i, a in enumerate(at) for b in at[:i])
    abreast = len(series) if shared else 1
    width = 0.8 * gap / abreast
    boxes = []
    for i, (bars, centre) in enumerate(zip(series, at, strict=True)):
        centre = centre + ((i - (abreast - 1) / 2) * width if shared else 0.0)
        edges = [centre, centre - width / 2, centre + width / 2]
        boxes.append((bars, *(10.0 ** np.clip(e, -305, 305) if panel.x.log else e for e in edges)))
    return boxes  # type: ignore[return-value]


def frame_of(panel: Panel, which: str) -> Frame:
    """The panel's "x" or "y" axis."""
    axis: Axis = panel.x if which == "x" else panel.y
    if axis.categories:
        texts = [shortened(name, 16, 3) for name in axis.categories]
        return Frame(-0.6, len(texts) - 0.4, list(range(len(texts))), texts)
    core, lows, highs = _values(panel, axis, which)
    low, high = _limits(core, lows, highs, axis)
    empty = not len(core) and not len(lows)
    if which == "y" and any(isinstance(i, Bars) for i in panel.items) and not axis.log:
        low, high = (0.0 if low > -0.06 * high else low), (0.0 if high < -0.06 * low else high)
    low, high = _stated(axis, low, high)
    ticks = log_ticks(low, high) if axis.log else linear_ticks(low, high)
    if axis.log and which == "x" and any("·" in text for text in tick_texts(ticks, axis)):
        ticks = log_ticks(low, high, apart=True)  # 2·10^{14} and 3·10^{14} side by side would touch
    minor = minor_ticks(low, high) if axis.log else []
    return Frame(low, high, ticks, tick_texts(ticks, axis), minor, empty)


def _values(panel: Panel, axis: Axis, which: str) -> tuple[Array, Array, Array]:
    """Values the axis must hold, and lower and upper ends of intervals that it should."""
    core: list[Array] = [np.empty(0)]
    lows: list[Array] = [np.empty(0)]
    highs: list[Array] = [np.empty(0)]
    for item in panel.items:
        if isinstance(item, Rule):
            if item.axis == which:
                core.append(drawable([item.value], axis))
        elif which == "x":
            core.append(drawable(item.x, axis))
        else:
            if not isinstance(item, Line):
                lows.append(drawable(item.low, axis))
                highs.append(drawable(item.high, axis))
            if not isinstance(item, Band):
                core.append(drawable(item.y, axis))
    if which == "x":
        core += [drawable(edge, axis) for _, _, *edges in bar_boxes(panel) for edge in edges]
    elif not axis.log and any(isinstance(i, Bars) for i in panel.items):
        core.append(np.zeros(1))
    found = [np.concatenate(part) for part in (core, lows, highs)]
    return tuple(v[np.isfinite(v)] for v in found)  # type: ignore[return-value]


def _limits(core: Array, lows: Array, highs: Array, axis: Axis) -> tuple[float, float]:
    """Round every value, with a margin. Interval ends widen the axis; a few wild ones do not squash it."""
    if not len(core) and not len(lows) and not len(highs):
        return (1.0, 10.0) if axis.log else (0.0, 1.0)
    to: Callable[[Array], Array] = np.log10 if axis.log else np.asarray
    core, lows, highs = to(core), to(lows), to(highs)
    base = core if len(core) else np.concatenate([lows, highs])
    low, high = float(base.min()), float(base.max())
    span = high - low
    if len(lows):
        low = min(low, max(float(lows.min()), min(low - span, _ranked(lows, 0.25, "lower"))))
    if len(highs):
        high = max(high, min(float(highs.max()), max(high + span, _ranked(highs, 0.75, "higher"))))
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        room = 0.2 if axis.log else 0.1 * abs(high) or 1.0
        low, high = low - room, high + room
    margin = 0.05 * (high - low)
    ends = [low - margin, high + margin]
    if axis.log:
        return 10.0 ** max(ends[0], -305.0), 10.0 ** min(ends[1], 305.0)
    if axis.percent and low >= 0 and high <= 1:
        ends = [max(ends[0], -0.02), min(ends[1], 1.02)]
    return ends[0], ends[1]


def _ranked(values: Array, share: float, side: str) -> float:
    return float(np.quantile(values, share, method=side))  # type: ignore[call-overload]


def _stated(axis: Axis, low: float, high: float) -> tuple[float, float]:
    """The limits the builder gave, where the axis can hold them."""
    ends = drawable([math.nan if v is None else v for v in (axis.low, axis.high)], axis)
    given = [end if math.isfinite(end) else auto for end, auto in zip(ends, (low, high), strict=True)]
    return (float(given[0]), float(given[1])) if given[0] < given[1] else (low, high)


def log_ticks(low: float, high: float, most: int = MOST_TICKS, *, apart: bool = False) -> list[float]:
    """At most ``most`` round values in [low, high] for a log axis, which may span far less than a decade or
    hundreds of them. apart: by a factor of 2 or more, where that can be."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    if last - first > most:
        step = math.ceil((last - first) / (most - 1))
        return [10.0**d for d in range(first, last + 1) if d % step == 0 and low <= 10.0**d <= high]
    decades = range(first - 1, last + 1)
    for multiples in DENSITIES[2 if apart else 0 :]:
        ticks = [float(f"{m}e{d}") for d in decades for m in multiples if low <= float(f"{m}e{d}") <= high]
        if len(ticks) <= most:
            break
    return ticks if len(ticks) >= 3 else linear_ticks(low, high, most)


def linear_ticks(low: float, high: float, most: int = MOST_TICKS) -> list[float]:
    """At most ``most`` multiples of 1, 2 or 5 times a power of ten in [low, high]."""
    exponent = math.floor(math.log10((high - low) / most))
    ticks: list[float] = []
    for mantissa, e in ((m, exponent + e) for e in (0, 1, 2) for m in (1, 2, 5)):
        step = float(f"{mantissa}e{e}")
        first = math.ceil(low / step - 1e-9)
        ticks = [float(f"{k * mantissa}e{e}") for k in range(first, math.floor(high / step + 1e-9) + 1)]
        if len(ticks) <= most:
            break
    return ticks


def minor_ticks(low: float, high: float) -> list[float]:
    """2, 3 ... 9 times each power of ten, over one to six decades: they tell the eye that the axis is log."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    if not 1 <= math.log10(high) - math.log10(low) <= 6:
        return []
    values = [float(f"{m}e{d}") for d in range(first, last + 1) for m in range(1, 10)]
    return [v for v in values if low <= v <= high]


def tick_texts(ticks: Sequence[float], axis: Axis) -> list[str]:
    """Per cent, parameter counts where the label speaks of parameters, else numbers: on a log axis all as
    powers of ten where one is."""
    if axis.percent:
        return [f"{100 * t:.6g}%".replace("-", "−") for t in ticks]
    if _counts_parameters(axis) and all(t == 0 or 1e3 <= abs(t) < 1e12 for t in ticks):
        return [parameters(t) for t in ticks]
    texts = [number_text(t) for t in ticks]
    if axis.log and any("^" in text for text in texts):
        return [
            text if t in (1.0, 10.0, 100.0) else power_text(t) for t, text in zip(ticks, texts, strict=True)
        ]
    return texts


def _counts_parameters(axis: Axis) -> bool:
    return "parameters" in axis.label.lower()


def number_text(value: float, digits: int = 6) -> str:
    """0.45, 3000, 2·10^{18}."""
    if value == 0 or 1e-3 <= abs(value) < 1e5 or not math.isfinite(value):
        return f"{value:.{digits}g}".replace("-", "−")
    return power_text(value, digits)


def power_text(value: float, digits: int = 6) -> str:
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    mantissa = f"{float(mantissa):g}"
    power = f"10^{{{int(exponent)}}}"
    power = {"1": power, "-1": f"-{power}"}.get(mantissa, f"{mantissa}·{power}")
    return power.replace("-", "−")


def value_text(value: float, axis: Axis) -> str:
    """A value as one reads it off the axis, for hover texts."""
    if axis.categories and -0.5 < value < len(axis.categories) - 0.5:
        return axis.categories[round(value)]
    if axis.percent:
        return f"{100 * value:.3g}%".replace("-", "−")
    if _counts_parameters(axis) and 1e3 <= abs(value) < 1e12:
        return parameters(value)
    return number_text(value, 4)


def plain(text: str) -> str:
    """Without control characters and halves of characters, which neither renderer can show."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    return "".join(c if c.isprintable() else " " for c in text)


def broken(text: str, width: int, lines: int = NAME_LINES) -> list[str]:
    """Lines of at most ``width`` characters; the rest of a very long text is cut with an ellipsis.

    Each piece of markup (RAISED) counts as one character, which cannot be cut.
    """
    text = plain(text)
    markup = (m[0] for m in RAISED.finditer(text))
    found = textwrap.wrap(RAISED.sub(MARKUP, text), width) or [""]
    if len(found) > lines:
        found = [*found[: lines - 1], found[lines - 1][: width - 1] + "…"]
    return ["".join(next(markup) if c == MARKUP else c for c in line) for line in found]


def slanted(frame: Frame, room: int) -> bool:
    """Whether the ticks' texts, set level along an axis of ``room`` characters, would touch."""
    widths = [max(len(line) for line in RAISED.sub(r"\2", text).split("\n")) for text in frame.texts]
    return sum(widths) + 2 * len(widths) > room


def shortened(text: str, width: int, lines: int) -> str:
    return "\n".join(broken(text, width, lines))


def legend_names(chart: Chart) -> list[str]:
    """Names the legend shows, each once, in the order of the panels."""
    names = [i.name for p in chart.panels for i in p.items if not isinstance(i, Rule) and i.name]
    return list(dict.fromkeys(names))


def rule_names(panel: Panel, which: str, frame: Frame) -> list[tuple[str, float, str]]:
    """Names beside the rules of one axis: (text, place, colour), place of the text's lower edge from 0 to 1.

    A name stands above its rule, below it where another rule is near, and further up where neither is free.
    Rules of one value share a line of text.
    """
    axis = panel.x if which == "x" else panel.y
    named: dict[float, list[Rule]] = {}
    for rule in panel.items:
        if isinstance(rule, Rule) and rule.axis == which and rule.name:
            value = float(drawable([rule.value], axis)[0])
            if frame.low <= value <= frame.high:
                named.setdefault(value, []).append(rule)
    found: list[tuple[str, float, str]] = []
    values = sorted(named)
    at = [share(value, axis, frame) for value in values]
    floor = -math.inf
    for i, value in enumerate(values):
        above = at[i + 1] if i + 1 < len(at) else 1.0 + 0.3 * RULE_GAP
        fits_below = at[i] - RULE_GAP >= max(floor, 0.0)
        place = at[i] - RULE_GAP if fits_below and above - at[i] < RULE_GAP else max(at[i], floor)
        floor = place + RULE_GAP
        rules = named[value]
        text = shortened(", ".join(dict.fromkeys(r.name for r in rules)), 48, 1)
        found.append((text, min(place, 1.0 - RULE_GAP), rules[0].colour))
    return found


def share(value: float, axis: Axis, frame: Frame) -> float:
    """Where a value stands between the limits, 0 to 1."""
    if axis.log:
        low, high = math.log(frame.low), math.log(frame.high)
        return (math.log(value) - low) / (high - low)
    return (value - frame.low) / (frame.high - frame.low)


def free_side(panel: Panel, x: Frame, y: Frame, place: float) -> str:
    """The end ("left" or "right") of a horizontal rule where a name would cover fewer marks."""
    crowd = {"left": 0, "right": 0}
    for item in panel.items:
        if isinstance(item, Rule | Band):
            continue
        for a, b in zip(drawable(item.x, panel.x), drawable(item.y, panel.y), strict=True):
            if math.isfinite(a) and math.isfinite(b) and -0.02 < share(b, panel.y, y) - place < 0.08:
                crowd["left" if share(a, panel.x, x) < 0.5 else "right"] += 1
    return "left" if crowd["left"] < crowd["right"] else "right"


def points_of(item: Item, panel: Panel) -> tuple[Array, Array]:
    """x and y of marks, a line or bars, NaN where an axis cannot hold one of the two."""
    assert isinstance(item, Marks | Line | Bars)
    return drawable(item.x, panel.x), drawable(item.y, panel.y)
