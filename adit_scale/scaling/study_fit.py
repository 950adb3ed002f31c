"""All that a study's points tell, fitted in one go: what figures, report and advice read.

Nothing here raises for a thin study: a fit that was not made leaves the reason, and the design that would
allow it, in ``StudyFit.refusals``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from adit_scale.errors import DataError
from adit_scale.scaling.basins import learning_rate_basins
from adit_scale.scaling.config import SweepConfig
from adit_scale.scaling.envelope import lower_envelope
from adit_scale.scaling.exclusions import Selection, select_points
from adit_scale.scaling.fit import MIN_SIZES, ScalingFit, fit_points
from adit_scale.scaling.isoflop import fit_isoflop
from adit_scale.scaling.leave_out import leave_one_size_out, leave_one_size_out_of_surface
from adit_scale.scaling.model_costs import model_costs
from adit_scale.scaling.results import (
    Basin,
    EnvelopePoint,
    Exclusion,
    HeldOut,
    IsoflopFit,
    LossLink,
    ModelCost,
    SeedNoise,
    SensitivityRow,
    SurfaceFit,
    TransferPair,
)
from adit_scale.scaling.seeds import seed_noise as measured_seed_noise
from adit_scale.scaling.sensitivity import size_law_rows, surface_rows
from adit_scale.scaling.study_data import Point
from adit_scale.scaling.surface import fit_surface
from adit_scale.scaling.table import RECONSTRUCTION_ROW, REFERENCE_ROW, Ceilings
from adit_scale.scaling.transfer import DOMAINS, transfer_pairs
from adit_scale.scaling.trends import Trend, metric_names, rate_trends
from adit_scale.scaling.validity import alike_sampled, loss_links

# A surface needs D to vary at several sizes by this factor: else B and beta rest on nothing.
DATA_SPREAD = 2.0
MIN_SPREAD_SIZES = 2


@dataclass(frozen=True)
class StudyFit:
    """What was fitted, and in ``refusals``, by the same names, why the rest was not.

    points: all. selection: of the loss fits. size_law: L(N) at the study's common D. surface: L(N, D), only
    where D varies at several sizes. links, trends: by metric. domains: the law of each domain's own loss.
    """

    points: Sequence[Point]
    selection: Selection
    size_law: ScalingFit | None
    surface: SurfaceFit | None
    isoflop: IsoflopFit | None
    envelope: Sequence[EnvelopePoint]
    links: Mapping[str, LossLink]
    trends: Mapping[str, Trend]
    domains: Mapping[str, ScalingFit | SurfaceFit]
    transfer: Sequence[TransferPair]
    basins: Sequence[Basin]
    seed_noise: SeedNoise | None
    leave_one_out: Sequence[HeldOut]
    sensitivity: Sequence[SensitivityRow]
    costs: Sequence[ModelCost]
    refusals: Mapping[str, str]
    warnings: Sequence[str]


def fit_study(
    points: Sequence[Point],
    config: SweepConfig,
    *,
    seed_noise: float | None = None,
    ceilings: Ceilings | None = None,
) -> StudyFit:
    """Every fit that the points of a study allow.

    seed_noise: deviation of log loss between seeds, where known from elsewhere. ceilings: rates of the real
    data by row (table.py); a rate's link to the loss has the reconstructions' as its ceiling.
    """
    study = _Study(points, config, seed_noise)
    size_law, surface = study.size_law(), study.surface()
    domains = study.domains()
    links, trends = study.rates(ceilings or {})
    fit = StudyFit(
        points=points,
        selection=study.all_data if surface is not None else study.one_budget,
        size_law=size_law,
        surface=surface,
        isoflop=study.isoflop(),
        envelope=study.envelope(),
        links=links,
        trends=trends,
        domains=domains,
        transfer=study.transfer(domains),
        basins=study.basins(),
        seed_noise=study.noise,
        leave_one_out=study.leave_one_out(size_law, surface),
        sensitivity=study.sensitivity(size_law, surface),
        costs=study.costs,
        refusals=study.refusals,
        warnings=(),
    )
    found = [fit.selection.warnings, *(f.warnings for f in (size_law, surface, fit.isoflop) if f is not None)]
    return replace(fit, warnings=list(dict.fromkeys(w for part in found for w in part)))


class _Study:
    """The points under their selections; every method makes one kind of fit or leaves its refusal."""

    def __init__(self, points: Sequence[Point], config: SweepConfig, seed_noise: float | None) -> None:
        self.points, self.config, self.given_noise = points, config, seed_noise
        self.refusals: dict[str, str] = {}
        self.refused = ""
        self.all_data, self.one_budget = self._select(False), self._select(True)
        self.joint = [p for p in points if p.status == "done" and not p.domain]
        self.noise = measured_seed_noise(self.joint)
        if self.noise is None:
            self.refuse("seed_noise", "no two runs differ in seed alone; sweep=seeds makes them")
        self.costs = model_costs(self.joint or [p for p in points if p.status == "done"])

    def _select(self, one_budget: bool) -> Selection:
        """What a loss fit may use; nothing where the held-out sets leak, which the refusals then say."""
        try:
            return select_points(self.points, one_budget=one_budget, max_leakage=self.config.max_leakage)
        except DataError as error:
            self.refused = str(error)
            return Selection([], [Exclusion(p.label, "its study leaks") for p in self.points], [str(error)])

    def refuse(self, name: str, reason: str) -> None:
        leaks = self.refused and name not in ("seed_noise", "basins", "trends")
        self.refusals[name] = self.refused if leaks else reason

    def size_law(self) -> ScalingFit | None:
        try:
            fit = self._law_of_size(self.one_budget.used)
        except DataError as error:
            self.refuse("size_law", str(error))
            return None
        warnings = dict.fromkeys([*self.one_budget.warnings, *fit.warnings])
        return replace(
            fit,
            used=self.one_budget.used,
            excluded=self.one_budget.excluded,
            warnings=list(warnings),
        )

    def _law_of_size(self, used: Sequence[Point]) -> ScalingFit:
        return fit_points(
            used,
            bootstrap=self.config.bootstrap,
            hold_out_largest=self.config.hold_out_largest,
            seed_noise=self.given_noise,
            max_leakage=self.config.max_leakage,
        )

    def surface(self) -> SurfaceFit | None:
        try:
            return self._law_of_both(self.all_data.used)
        except DataError as error:
            self.refuse("surface", str(error))
            return None

    def _law_of_both(self, used: Sequence[Point]) -> SurfaceFit:
        """Raises DataError where D does not vary enough."""
        by_size: dict[int, list[int]] = {}
        for point in used:
            by_size.setdefault(point.n_parameters, []).append(point.atoms_seen)
        spread = [n for n, atoms in by_size.items() if max(atoms) >= DATA_SPREAD * min(atoms) > 0]
        if len(spread) < MIN_SPREAD_SIZES or len(by_size) < MIN_SIZES:
            raise DataError(
                f"{len(spread)} of {len(by_size)} sizes saw amounts of data {DATA_SPREAD:g} times apart; "
                f"expected {MIN_SPREAD_SIZES} of {MIN_SIZES}: sweep=chinchilla or sweep=isoflop makes them"
            )
        return fit_surface(
            used,
            bootstrap=self.config.bootstrap,
            hold_out_largest=self.config.hold_out_largest,
            seed_noise=self.given_noise,
        )

    def isoflop(self) -> IsoflopFit | None:
        try:
            return fit_isoflop(self.all_data.used, seed_noise=self.noise, bootstrap=self.config.bootstrap)
        except DataError as error:
            self.refuse("isoflop", str(error))
            return None

    def envelope(self) -> list[EnvelopePoint]:
        envelope = lower_envelope(self.all_data.used)
        if not envelope:
            self.refuse("envelope", "no finished run with a loss")
        return envelope

    def domains(self) -> dict[str, ScalingFit | SurfaceFit]:
        """The law of each domain's own loss, over N and D where the runs allow."""
        laws: dict[str, ScalingFit | SurfaceFit] = {}
        for domain in DOMAINS:
            both, one = (_of_domain(s.used, domain) for s in (self.all_data, self.one_budget))
            with suppress(DataError):
                laws[domain] = self._law_of_both(both)
                continue
            try:
                laws[domain] = self._law_of_size(one)
            except DataError as error:
                self.refuse(
                    f"{domain}_law", str(error) if both else f"no run has a loss of its {domain}s alone"
                )
        return laws

    def rates(self, ceilings: Ceilings) -> tuple[dict[str, LossLink], dict[str, Trend]]:
        """Rates through the loss, over all runs whose losses compare; rates by size, over those of one D."""
        metrics = metric_names(self.joint, ceilings.get(REFERENCE_ROW, {}))
        # Uniqueness falls with the number of valid samples, which itself changes with size.
        metrics = [name for name in metrics if not name.endswith("uniqueness")]
        alike = alike_sampled(_comparable(self.joint, self.all_data.used))
        scored = [] if self.refused else alike
        links, reasons = loss_links(scored, metrics, ceilings.get(RECONSTRUCTION_ROW, {}))
        if not links:
            self.refuse("links", next(iter(reasons.values()), "no run has rates of samples (sweep.evaluate)"))
        elif reasons:
            self.refuse("links", "; ".join(reasons.values()))
        labels = {key for p in self.one_budget.used for key in (p.run, p.label) if key}
        one_budget = [p for p in alike if p.run in labels or p.label in labels]
        trends = rate_trends(one_budget or alike, metrics)
        if not trends:
            self.refuse("trends", "no rate was measured at two sizes")
        return links, trends

    def transfer(self, laws: Mapping[str, ScalingFit | SurfaceFit]) -> list[TransferPair]:
        points = [] if self.refused else self.points
        pairs = transfer_pairs(points, laws, self.costs, seed_sigma=self.given_noise)
        if not pairs:
            alone = [p for p in self.points if p.domain in DOMAINS and p.status == "done"]
            self.refuse(
                "transfer",
                "no joint run of the same size and learning rate has equal FLOPs or equal sets of the domain"
                if alone
                else "no run was trained on one domain alone; sweep=transfer makes them",
            )
        return pairs

    def basins(self) -> list[Basin]:
        basins = learning_rate_basins(self.points, self.noise, bootstrap=self.config.bootstrap)
        if not basins:
            self.refuse("basins", "no two runs differ in learning rate alone; sweep=lr makes them")
        return basins

    def leave_one_out(self, law: ScalingFit | None, surface: SurfaceFit | None) -> list[HeldOut]:
        """Of L(N), then of L(N, D); ``form`` tells them apart."""
        used = law.used if law is not None else []
        held_out = leave_one_size_out(used, self.config.max_leakage, seed_noise=self.given_noise)
        if surface is not None:
            held_out += leave_one_size_out_of_surface(self.all_data.used, seed_noise=self.given_noise)
        if not held_out:
            n = len({p.n_parameters for p in used})
            self.refuse("leave_one_out", f"{n} sizes in the law of N; expected {MIN_SIZES + 1}: add sizes")
        return held_out

    def sensitivity(self, law: ScalingFit | None, surface: SurfaceFit | None) -> list[SensitivityRow]:
        rows = []
        if law is not None:
            rows += size_law_rows(law.used, law.fit.form == "offset")
        if surface is not None:
            rows += surface_rows(self.all_data.used, self.costs, surface.form == "repeats")
        if not rows:
            self.refuse("sensitivity", self.refusals.get("size_law", ""))
        return rows


def _of_domain(points: Sequence[Point], domain: str) -> list[Point]:
    """The points with that domain's loss in place of the whole."""
    return [
        replace(p, final_loss=p.domain_losses[domain])
        for p in points
        if 0 < p.domain_losses.get(domain, math.nan) < math.inf
    ]


def _comparable(points: Sequence[Point], used: Sequence[Point]) -> list[Point]:
    """Those over the autoencoder, data and validation grid of the fits; all where nothing was fitted."""
    if not used:
        return list(points)
    names = ("autoencoder_id", "data_fingerprint", "validation_grid")
    return [p for p in points if all(getattr(p, name) == getattr(used[0], name) for name in names)]
