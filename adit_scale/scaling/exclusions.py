"""Which points of a study a fit may use, and by name why it uses no others."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from adit_scale.errors import DataError
from adit_scale.scaling.config import SIZE_AXIS, SweepConfig
from adit_scale.scaling.results import Exclusion
from adit_scale.scaling.study_data import Point

# Two runs saw "the same" number of atoms when they differ by less: the last step overshoots the budget.
SAME_DATA_TOLERANCE = 0.02
# Axes that a rule of their own looks at, or that change no loss, by how their names begin. Runs that differ
# in any other axis are not of one law.
OPTIMISER_AXES = ("diffusion.optim.", "diffusion.atom_budget")
KNOWN_AXES = (
    SIZE_AXIS,
    "seed",
    "diffusion.steps",
    "data.domain",
    *OPTIMISER_AXES,
    *("model/autoencoder", "model.autoencoder.", "model.denoiser.latent", "autoencoder"),
    *("sweep.", "sampling", "evaluation", "parallel", "launcher", "tracking", "budget", "decay", "flops"),
)


@dataclass(frozen=True)
class Selection:
    """used: the points of the fit, by size, atoms seen and seed. excluded: all others. warnings: what the fit
    mixes."""

    used: list[Point]
    excluded: list[Exclusion]
    warnings: list[str]


def select_points(
    points: Sequence[Point], *, one_budget: bool = True, max_leakage: float = SweepConfig.max_leakage
) -> Selection:
    """Leave out what has no sound loss, what stands there twice, and what no one law can hold.

    Losses compare only over one autoencoder, one data set, one validation grid, one precision and
    parametrization and one mixture of domains: the largest group that shares a value is kept. Of runs of one
    size and data that differ in learning rate (or another setting of the optimiser) the best stay.
    one_budget: keep one number of atoms seen, the one that most sizes share (ties: of most runs, then the
    most atoms); False keeps all, for fits over N and D.
    Raises DataError where a larger share than ``max_leakage`` of a domain's held-out sets stands in the
    training data.
    """
    chosen = _Chooser(points)
    chosen.leave_out(_fault)
    chosen.drop_repeats()
    chosen.keep_joint()
    chosen.keep_most_common(lambda p: p.autoencoder_id, "trained over another autoencoder")
    chosen.keep_most_common(lambda p: p.data_fingerprint, "trained on other data")
    chosen.keep_most_common(lambda p: p.validation_grid, "validated on another grid")
    chosen.keep_most_common(lambda p: p.precision, "trained in another precision")
    chosen.keep_most_common(lambda p: p.parametrization, "another parametrization")
    chosen.keep_most_common(_other_axes, "another setting")
    chosen.keep_decayed()
    chosen.keep_best_optimiser()
    if one_budget:
        chosen.keep_one_budget()
    _refuse_leaks(chosen.kept, max_leakage)
    used = sorted(chosen.kept, key=lambda p: (p.n_parameters, p.atoms_seen, p.seed, p.label))
    return Selection(used, chosen.excluded, chosen.warnings)


class _Chooser:
    """The points that are still in, those that are out with their reasons, and warnings."""

    def __init__(self, points: Sequence[Point]) -> None:
        self.kept = list(points)
        self.excluded: list[Exclusion] = []
        self.warnings: list[str] = []

    def leave_out(self, reason: Callable[[Point], str | None]) -> None:
        """Every point for which there is a reason."""
        kept = []
        for point in self.kept:
            found = reason(point)
            if found is None:
                kept.append(point)
            else:
                self.excluded.append(Exclusion(point.label, found))
        self.kept = kept

    def drop_repeats(self) -> None:
        """One run counts once: where points differ in sampling alone, and where one was made twice."""
        by_run: dict[Hashable, str] = {}
        by_settings: dict[Hashable, str] = {}

        def reason(point: Point) -> str | None:
            if point.run and point.run in by_run:
                return f"the same run as {by_run[point.run]}: its loss counts once"
            settings = _settings(point)
            if settings in by_settings:
                return f"duplicate of {by_settings[settings]} (same size, seed, data and autoencoder)"
            by_run[point.run] = by_settings[settings] = point.label
            return None

        self.leave_out(reason)

    def keep_joint(self) -> None:
        """Runs of one domain alone are another law, however many there are beside a joint one."""
        if any(not p.domain for p in self.kept):
            self.leave_out(lambda p: f"trained on {p.domain}s alone" if p.domain else None)
        self.keep_most_common(lambda p: p.domain, "trained on another domain")

    def keep_most_common(self, value: Callable[[Point], Hashable], words: str) -> None:
        """Keep the points that share the value of most sizes (then of most points); name the others."""
        counts = Counter(map(value, self.kept))
        if len(counts) < 2:
            return
        n_sizes = {v: len({p.n_parameters for p in self.kept if value(p) == v}) for v in counts}
        common = max(counts, key=lambda v: (n_sizes[v], counts[v]))  # ties: the first

        def reason(point: Point) -> str | None:
            own = value(point)
            return None if own == common else f"{words} ({own or '?'}, not {common or '?'})"

        self.leave_out(reason)

    def keep_decayed(self) -> None:
        """A constant rate leaves a loss above what the same run reaches once it has decayed."""
        constant = [p for p in self.kept if p.schedule == "constant"]
        if constant and len(constant) < len(self.kept):
            self.leave_out(lambda p: "its learning rate did not decay" if p.schedule == "constant" else None)
        elif constant:
            self.warnings.append(
                "the learning rate of no run decayed: its losses lie above what decayed runs reach"
            )

    def keep_best_optimiser(self) -> None:
        """Of runs of one size and data, those whose optimiser's settings reach the lowest mean log loss."""
        reasons: dict[int, str] = {}
        for group in _near_in_data(self.kept, key=lambda p: (p.size, p.n_parameters)):
            by_settings: dict[Hashable, list[Point]] = defaultdict(list)
            for point in group:
                by_settings[tuple(sorted(_optimiser(point).items()))].append(point)
            best = min(by_settings.values(), key=_mean_log_loss)[0]
            for points in by_settings.values():
                for point in points:
                    if words := _differences(_optimiser(point), _optimiser(best)):
                        reasons[id(point)] = f"{words[0]} is not the best of {point.size} ({words[1]})"
        self.leave_out(lambda p: reasons.get(id(p)))

    def keep_one_budget(self) -> None:
        """One number of atoms seen; where sizes share none, the longest run of each size, with a warning."""
        groups = _near_in_data(self.kept)
        if len(groups) < 2:
            return
        best = max(groups, key=lambda g: (len({p.n_parameters for p in g}), len(g), g[0].atoms_seen))
        if len({p.n_parameters for p in best}) >= 3:
            inside, atoms = {id(p) for p in best}, best[0].atoms_seen
            self.leave_out(
                lambda p: (
                    None
                    if id(p) in inside
                    else f"saw {p.atoms_seen:.3g} atoms; the fit compares runs of {atoms:.3g}"
                )
            )
            return
        longest = {p.n_parameters: p.atoms_seen for p in sorted(self.kept, key=lambda p: p.atoms_seen)}

        def reason(point: Point) -> str | None:
            most = longest[point.n_parameters]
            if abs(most - point.atoms_seen) <= SAME_DATA_TOLERANCE * most:
                return None
            return f"saw {point.atoms_seen:.3g} atoms; the longest run of its size saw {most:.3g}"

        self.leave_out(reason)
        seen = [p.atoms_seen for p in self.kept]
        self.warnings.append(
            f"sizes saw different amounts of data ({min(seen):.3g} to {max(seen):.3g} atoms): "
            "the exponent mixes size with data"
        )


def _fault(point: Point) -> str | None:
    """Why a point has no usable loss, or None."""
    note = f": {point.note}" if point.note else ""
    if point.status != "done":
        return f"{point.status}{note}"
    if not math.isfinite(point.final_loss):
        return f"diverged: final validation loss is {point.final_loss}"
    if point.final_loss <= 0:
        return f"final validation loss is {point.final_loss:g}; a power law needs a positive loss"
    start = next((loss for loss in point.curve.loss if math.isfinite(loss)), math.inf)
    # A decay branch begins at its trunk's loss, and may end above its first value by the noise alone.
    if len(point.curve.loss) > 1 and point.final_loss >= start and not point.trunk:
        return f"diverged: final validation loss {point.final_loss:.4g} is not below its first, {start:.4g}"
    return None


def _settings(point: Point) -> Hashable:
    """What tells two runs apart where their ids do not."""
    return (
        *(point.n_parameters, point.size, point.seed, point.atoms_seen, point.steps, point.schedule),
        *(point.autoencoder_id, point.data_fingerprint, point.validation_grid),
        *(point.domain, point.domain_match, point.precision, point.parametrization),
        *sorted(_optimiser(point).items()),
        _other_axes(point),
    )


def _optimiser(point: Point) -> dict[str, str]:
    """Settings of the optimiser that a study may vary, as text."""
    found = {axis: str(value) for axis, value in point.axes.items() if axis.startswith(OPTIMISER_AXES)}
    found.pop("diffusion.optim.lr", None)
    found.pop("diffusion.optim.warmup_steps", None)
    return {"learning rate": f"{point.lr:.3g}", "warm-up": f"{point.warmup_steps} steps", **found}


def _other_axes(point: Point) -> str:
    """The axes that no rule of its own looks at."""
    return ", ".join(
        f"{axis}={value}" for axis, value in sorted(point.axes.items()) if not axis.startswith(KNOWN_AXES)
    )


def _differences(own: dict[str, str], best: dict[str, str]) -> tuple[str, str] | None:
    """The first setting in which they differ, with its name, and the best one's value; None where equal."""
    for name in sorted({*own, *best}, key=lambda n: (n != "learning rate", n)):
        if own.get(name) != best.get(name):
            return f"{name} {own.get(name, '?')}", best.get(name, "?")
    return None


def _mean_log_loss(points: Sequence[Point]) -> float:
    return sum(math.log(p.final_loss) for p in points) / len(points)


def _near_in_data(points: Sequence[Point], key: Callable[[Point], Any] = lambda p: None) -> list[list[Point]]:
    """Groups of one key and one number of atoms seen within the tolerance, each with its largest first."""
    groups: dict[tuple[Any, int], list[Point]] = defaultdict(list)
    for point in sorted(points, key=lambda p: p.atoms_seen, reverse=True):
        own = key(point)
        near = (a for k, a in groups if k == own and abs(a - point.atoms_seen) <= SAME_DATA_TOLERANCE * a)
        groups[own, next(near, point.atoms_seen)].append(point)
    return list(groups.values())


def _refuse_leaks(points: Sequence[Point], max_leakage: float) -> None:
    worst = [(share, domain, p.label) for p in points for domain, share in p.leakage.items()]
    share, domain, label = max(worst, default=(0.0, "", ""))
    if share > max_leakage:
        raise DataError(
            f"{100 * share:.3g}% of the held-out {domain}s stand in the training data of {label}; expected "
            f"at most {100 * max_leakage:g}% (sweep.max_leakage): their loss measures memory. Build the data "
            "with data.split_by=composition, or raise sweep.max_leakage"
        )
