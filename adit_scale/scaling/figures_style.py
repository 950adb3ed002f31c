"""What all figures of a study share: colours, axes, hover texts, and which runs compare. No heavy imports."""

# ruff: noqa: RUF001 (a true minus sign in text for readers)

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.interpolate import PchipInterpolator

from adit_scale.scaling.charts import BLACK, BLUE, SHAPES, VERMILION, Axis, Band, Item, Line, Marks
from adit_scale.scaling.results import Array, Estimate, HeldOut, Interval, SurfaceFit
from adit_scale.scaling.study_data import Point
from adit_scale.scaling.table import parameters

if TYPE_CHECKING:
    from adit_scale.scaling.fit import ScalingFit
    from adit_scale.scaling.study_fit import StudyFit

SIZE = Axis("denoiser parameters N", log=True)
COMPUTE = Axis("training compute C (FLOPs)", log=True)
DATA = Axis("atoms seen in training D, repeats included", log=True)
LOSS_LABEL = "validation loss L (EMA weights)"
LOSS = Axis("final " + LOSS_LABEL, log=True)
DOMAINS = {"": (BLACK, "diamond"), "molecule": (BLUE, "circle"), "crystal": (VERMILION, "square")}
DOMAIN_NAMES = {"": "both domains", "molecule": "molecules", "crystal": "crystals"}
# Steps of viridis and plasma (matplotlib), cut before their yellows, which cannot be read on white.
VIRIDIS = (
    "#440154", "#482475", "#414487", "#355f8d", "#2a788e", "#21918c", "#22a884", "#44bf70", "#7ad151",
)  # fmt: skip
PLASMA = ("#0d0887", "#5302a3", "#8b0aa5", "#b83289", "#db5c68", "#f48849")
SIZE_SHAPES = SHAPES[:4]  # the cross is for what is left out
SAME = 0.05  # values of D or C nearer than this are one level
MOST_LEVELS = 6
KNOTS = 9
LEFT_OUT = "left out of the fit"
PALE = "#bbbbbb"
Key = Callable[[Point], float]


def shade(value: float, values: Iterable[float], steps: Sequence[str] = VIRIDIS) -> str:
    """The colour of one of several ordered values, by rank, dark to light: VIRIDIS for sizes, PLASMA for
    amounts of data and of compute."""
    ranks = sorted(set(values))
    place = ranks.index(value) / max(len(ranks) - 1, 1) * (len(steps) - 1)
    low = min(int(place), len(steps) - 2)
    ends = [[int(steps[i][k : k + 2], 16) for k in (1, 3, 5)] for i in (low, low + 1)]
    mixed = [round(a + (b - a) * (place - low)) for a, b in zip(*ends, strict=True)]
    return "#" + "".join(f"{channel:02x}" for channel in mixed)


def shape(value: float, values: Iterable[float]) -> str:
    """The mark of one of several ordered values, by rank; they repeat after four."""
    return SIZE_SHAPES[sorted(set(values)).index(value) % len(SIZE_SHAPES)]


def percent(fraction: float, digits: int = 1) -> str:
    """+1.2%, −0.3%: a signed share."""
    return f"{100 * fraction:+.{digits}f}%".replace("-", "−")


def describe(p: Point) -> str:
    """A run on hover."""
    return (
        f"{p.label}: N = {parameters(p.n_parameters)}, D = {p.atoms_seen:.3g} atoms ({p.epochs:.3g} epochs), "
        f"C = {p.flops:.3g} FLOPs, L = {p.final_loss:.4g}, {p.status}"
    )


def interval_text(interval: Interval | None, digits: int = 3) -> str:
    """[0.21, 0.34], or that there is none."""
    if interval is None:
        return "(no interval)"
    return f"[{interval.low:.{digits}g}, {interval.high:.{digits}g}]"


def ends(estimates: Sequence[Estimate | None]) -> tuple[list[float], list[float]]:
    """Lower and upper ends of estimates' intervals, NaN where there is none."""
    bounds = [e.interval if e is not None else None for e in estimates]
    low = [math.nan if b is None else b.low for b in bounds]
    return low, [math.nan if b is None else b.high for b in bounds]


def size_of(thing: Point | HeldOut) -> float:
    return thing.n_parameters


def data_of(thing: Point | HeldOut) -> float:
    return thing.atoms_seen


def positive(value: float) -> bool:
    """Whether it can stand on a log axis."""
    return math.isfinite(value) and value > 0


def trained(points: Iterable[Point]) -> list[Point]:
    """One point a training run: those that differ in sampling or evaluation alone count once."""
    seen: dict[str, Point] = {}
    for p in points:
        seen.setdefault(p.run or f"{p.study}/{p.label}", p)
    return list(seen.values())


def comparable(fit: StudyFit) -> list[Point]:
    """All points whose validation loss compares with that of the fitted runs: of their autoencoder, data and
    validation grid, trained on both domains."""

    def kind(p: Point) -> tuple[str, str, str]:
        return p.autoencoder_id, p.data_fingerprint, p.validation_grid

    fitted = fit.selection.used or [p for p in fit.points if p.status == "done" and not p.domain]
    if not fitted:
        return [p for p in fit.points if not p.domain]
    common = Counter(kind(p) for p in fitted).most_common(1)[0][0]
    return [p for p in fit.points if kind(p) == common and not p.domain]


def with_loss(points: Iterable[Point]) -> list[Point]:
    """Finished runs with a loss that can be drawn, one a run, small ones first."""
    chosen = [p for p in trained(points) if p.status == "done" and positive(p.final_loss)]
    return sorted(chosen, key=lambda p: (p.n_parameters, p.atoms_seen, p.seed, p.label))


def fitted_labels(fit: StudyFit) -> set[str]:
    """Labels of the runs that the size law or the surface was fitted to."""
    labels = {p.label for p in fit.size_law.used} if fit.size_law else set()
    labels |= set(fit.surface.used) if fit.surface else set()
    return labels or {p.label for p in fit.selection.used}


def levels(values: Iterable[float]) -> list[float]:
    """Values that lie within SAME of each other as one level (their geometric mean), in order."""
    groups: list[list[float]] = []
    for value in sorted(v for v in values if positive(v)):
        if groups and value <= groups[-1][0] * (1 + SAME):
            groups[-1].append(value)
        else:
            groups.append([value])
    return [float(np.exp(np.mean(np.log(group)))) for group in groups]


def near(value: float, level: float) -> bool:
    if not (positive(value) and positive(level)):
        return value == level  # not known, in an older record
    return abs(math.log(value / level)) <= math.log1p(SAME)


def data_levels(points: Sequence[Point]) -> list[float]:
    """Amounts of data that are worth a curve against N: those of three sizes or more, else all (a few)."""
    found = levels(p.atoms_seen for p in points)
    shared = [d for d in found if len({p.n_parameters for p in points if near(p.atoms_seen, d)}) >= 3]
    chosen = shared or found
    if len(chosen) <= MOST_LEVELS:
        return chosen
    return [chosen[round(i)] for i in np.linspace(0, len(chosen) - 1, MOST_LEVELS)]


def commonest_data(points: Sequence[Point]) -> float:
    """The amount of data at which most sizes were run, in atoms (ties: the most runs, then the most data).

    0 where no record has it.
    """

    def worth(d: float) -> tuple[int, int, float]:
        at = [p for p in points if near(p.atoms_seen, d)]
        return len({p.n_parameters for p in at}), len(at), d

    return max(levels(p.atoms_seen for p in points), key=worth, default=0.0)


def key_lines(colour: str, *names: tuple[str, str]) -> list[Item]:
    """Entries of a legend alone: (name, dash) of what is drawn as rules, which have none."""
    return [Line([math.nan], [math.nan], name, colour, dash, 1.2) for name, dash in names]


def grid(values: Iterable[float], beyond: float = 1.15, n_points: int = 100) -> Array:
    """Points of a curve over the range of values and a little beyond it."""
    found = [v for v in values if positive(v)]
    return np.geomspace(min(found) / beyond, max(found) * beyond, n_points)


def loss_marks(
    points: Sequence[Point], x: Key, name: str, colour: str, shape: str = "circle", filled: bool = True
) -> Marks:
    """Final losses of runs against x."""
    return Marks(
        [x(p) for p in points],
        [p.final_loss for p in points],
        name,
        text=[describe(p) for p in points],
        colour=colour,
        shape=shape,
        filled=filled,
    )


def line(
    x: Array, y: Array, name: str = "", colour: str = BLACK, dash: str = "solid", width: float = 1.6
) -> Line:
    return Line(x.tolist(), y.tolist(), name, colour, dash, width)


def band(x: Array, low: Array | None, high: Array | None, colour: str, name: str = "") -> list[Item]:
    """Nothing where there is no interval."""
    if low is None or high is None:
        return []
    return [Band(x.tolist(), low.tolist(), high.tolist(), name, colour)]


def law_curve(
    law: ScalingFit | SurfaceFit, n: Array, d: Array | float, runs: Sequence[Point]
) -> tuple[Array, Array | None, Array | None]:
    """Loss along n or d, (P,) and evenly spaced in log, with the law's interval.

    An interval is a search of its own: it is asked for at KNOTS places and drawn smoothly through them.
    runs: those of the fit, for the different atoms of a law of repeated data.
    """
    knots = np.unique(np.linspace(0, len(n) - 1, KNOTS).round().astype(int))
    if isinstance(law, SurfaceFit):
        d = np.broadcast_to(np.asarray(d, dtype=float), n.shape)
        unique = float(np.median([p.unique_atoms for p in runs])) if law.form == "repeats" else None
        known = None if unique is None else np.full_like(n, unique)
        value = law.law(n, d, known)
        at, low, high = law.law.band(n[knots], d[knots], None if known is None else known[knots])
    else:
        value = law.fit.law(n)
        at, low, high = law.fit.curve(n[knots])
    if low is None or high is None:
        return value, None, None
    place = np.arange(len(n))
    ratios = [PchipInterpolator(knots, np.log(side / at))(place) for side in (low, high)]
    return value, value * np.exp(ratios[0]), value * np.exp(ratios[1])


def spread(i: int, n: int, step: float = 0.05) -> float:
    """Factor on a log axis that sets the i-th of n series apart, so that intervals do not hide each other."""
    return math.exp(step * (i - (n - 1) / 2))
