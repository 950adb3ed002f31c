"""Joint training against one domain alone: does it help, and what is that worth in compute?

A pair is a joint run and a single-domain run of one size and recipe that share either their FLOPs or the sets
they saw of that domain, compared on that domain's validation loss.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from adit_scale.evaluation.statistics import WITHIN_NOISE
from adit_scale.scaling.fit import ScalingFit
from adit_scale.scaling.laws import Array
from adit_scale.scaling.model_costs import flops_an_atom
from adit_scale.scaling.resampling import scale_factor, tails
from adit_scale.scaling.results import Estimate, Interval, ModelCost, SurfaceFit, TransferPair
from adit_scale.scaling.seeds import pooled_sigma, replicates, seed_noise
from adit_scale.scaling.study_data import Point

DOMAINS = ("molecule", "crystal")
HELPS, HURTS, UNKNOWN = "helps", "hurts", "unknown"
# "Equal" FLOPs or sets: steps are whole, and sets of a domain are drawn.
MATCH_TOLERANCE = 0.10
# Differences of seeds shared by both runs tell the noise where at least so many degrees of freedom do.
MIN_PAIRED_DOF = 3
# A multiplier beyond this factor is an extrapolation no study supports; an interval's end there means "more".
MOST_COMPUTE = 100.0
PATH_POINTS = 400


@dataclass(frozen=True)
class _Match:
    """Runs of one comparison, each group of one recipe and D. joint, single: by seed."""

    domain: str
    match: str
    joint: Mapping[int, Point]
    single: Mapping[int, Point]

    @property
    def seeds(self) -> list[int]:
        return sorted(set(self.joint) & set(self.single))

    def log_losses(self, runs: Mapping[int, Point], seeds: Sequence[int] | None = None) -> list[float]:
        return [math.log(runs[s].domain_losses[self.domain]) for s in (seeds or runs)]

    def differences(self) -> list[float]:
        """log L_joint - log L_single of the seeds that both have."""
        both = (self.log_losses(runs, self.seeds) for runs in (self.joint, self.single))
        return [j - s for j, s in zip(*both, strict=True)] if self.seeds else []


def transfer_pairs(
    points: Sequence[Point],
    laws: Mapping[str, ScalingFit | SurfaceFit],
    costs: Sequence[ModelCost],
    *,
    seed_sigma: float | None = None,
    seed: int = 0,
    confidence: float = 0.95,
) -> list[TransferPair]:
    """Every comparison that the runs allow, by domain, match and N.

    laws: of each domain's loss over the joint runs; they turn a difference of loss into compute.
    seed_sigma: deviation of log loss between seeds where the runs themselves show none.
    """
    sound = [p for p in points if p.status == "done" and 0 < p.final_loss < math.inf]
    matches = _matches(sound)
    pairs = []
    for domain in DOMAINS:
        ours = [m for m in matches if m.domain == domain]
        noise = _DomainNoise.of(ours, sound, domain, seed_sigma)
        for match in map(noise.comparable, ours):
            delta = noise.difference(match)
            pair = _pair(match, delta, confidence)
            pairs.append(_with_multiplier(pair, match, delta, laws.get(domain), costs, seed, confidence))
    return pairs


def _matches(points: Sequence[Point]) -> list[_Match]:
    joint = [group for group in replicates(points) if not group[0].domain]
    matches = []
    for single in replicates([p for p in points if p.domain in DOMAINS]):
        domain = single[0].domain
        for match in (single[0].domain_match,) if single[0].domain_match else ("flops", "samples"):
            partner = _partner(single, joint, match)
            if partner is not None and all(domain in p.domain_losses for p in (*single, *partner)):
                groups = [{p.seed: p for p in group} for group in (partner, single)]
                matches.append(_Match(domain, match, *groups))
    return sorted(matches, key=lambda m: (m.domain, m.match, next(iter(m.single.values())).n_parameters))


def _partner(single: Sequence[Point], joint: Sequence[list[Point]], match: str) -> list[Point] | None:
    """The joint runs of that size and rate whose FLOPs or domain sets are equal; of several the likest."""
    first = single[0]

    def amount(point: Point) -> float:
        return point.flops if match == "flops" else point.domain_sets.get(first.domain, 0.0)

    def unlike(group: list[Point]) -> tuple[bool, int, float]:
        shared = {p.seed for p in group} & {p.seed for p in single}
        return group[0].schedule != first.schedule, -len(shared), _distance(amount(group[0]), amount(first))

    same = ("n_parameters", "size", "autoencoder_id", "data_fingerprint", "parametrization", "precision")
    candidates = [
        group
        for group in joint
        if all(getattr(group[0], name) == getattr(first, name) for name in same)
        and repr(group[0].lr) == repr(first.lr)
        and _distance(amount(group[0]), amount(first)) <= math.log1p(MATCH_TOLERANCE)
    ]
    return min(candidates, key=unlike, default=None)


def _distance(a: float, b: float) -> float:
    return abs(math.log(a / b)) if a > 0 and b > 0 else math.inf


@dataclass(frozen=True)
class _DomainNoise:
    """Of one domain's log loss. paired: (sigma, dof) of differences of one seed; single: of one run."""

    paired: tuple[float, float] | None
    single: tuple[float, float] | None

    @staticmethod
    def of(
        matches: Sequence[_Match], points: Sequence[Point], domain: str, seed_sigma: float | None
    ) -> _DomainNoise:
        pooled = pooled_sigma([m.differences() for m in matches if len(m.seeds) > 1])
        paired = (pooled[0].value, float(pooled[1])) if pooled and pooled[1] >= MIN_PAIRED_DOF else None
        trained = [p for p in points if p.domain in ("", domain)]
        seeds = seed_noise(trained, lambda p: math.log(p.domain_losses.get(domain, math.nan)))
        if seeds is not None:
            return _DomainNoise(paired, (seeds.sigma.value, float(seeds.dof)))
        return _DomainNoise(paired, None if seed_sigma is None else (seed_sigma, math.inf))

    def comparable(self, match: _Match) -> _Match:
        """The seeds that both have where their differences tell the noise, else all."""
        if self.paired is None or len(match.seeds) < 2:
            return match
        joint, single = ({s: runs[s] for s in match.seeds} for runs in (match.joint, match.single))
        return replace(match, joint=joint, single=single)

    def difference(self, match: _Match) -> _Difference:
        if self.paired is not None and len(match.seeds) > 1:
            sigma, dof = self.paired
            n = len(match.seeds)
            text = f"{n} seeds, paired ({dof:.0f} degrees of freedom)"
            return _Difference(float(np.mean(match.differences())), sigma / math.sqrt(n), dof, text)
        sides = [match.log_losses(runs) for runs in (match.joint, match.single)]
        value = float(np.mean(sides[0]) - np.mean(sides[1]))
        if self.single is None:
            return _Difference(value, math.nan, 0.0, "no seeds: no interval")
        sigma, dof = self.single
        known = "given" if math.isinf(dof) else f"{dof:.0f} degrees of freedom"
        text = f"{len(sides[0])} joint and {len(sides[1])} single runs, seed noise {sigma:.2g} ({known})"
        return _Difference(value, sigma * math.sqrt(sum(1 / len(side) for side in sides)), dof, text)


@dataclass(frozen=True)
class _Difference:
    """log L_joint - log L_single, its standard error and what is known of that; dof 0 is nothing."""

    value: float
    error: float
    dof: float
    text: str


def _pair(match: _Match, delta: _Difference, confidence: float) -> TransferPair:
    interval, verdict = None, UNKNOWN
    if delta.dof:
        half = float(stats.t.ppf(0.5 + confidence / 2, delta.dof)) * delta.error
        interval = Interval(delta.value - half, delta.value + half)
        verdict = WITHIN_NOISE if 0.0 in interval else HELPS if delta.value < 0 else HURTS
    joint, single = (math.exp(float(np.mean(match.log_losses(r)))) for r in (match.joint, match.single))
    first = next(iter(match.single.values()))
    return TransferPair(
        domain=match.domain,
        size=first.size,
        n_parameters=first.n_parameters,
        match=match.match,
        joint_loss=joint,
        single_loss=single,
        n_joint=len(match.joint),
        n_single=len(match.single),
        delta=Estimate(delta.value, interval),
        verdict=verdict,
        note=delta.text,
    )


@dataclass(frozen=True)
class _Path:
    """How the joint law's loss falls as a run grows: log compute (K,) beside the run's own, and the fall of
    log loss from there, fitted (K,) and of resampled laws (R, K)."""

    log_compute: Array
    fall: Array
    draws: Array | None
    words: str


def _path(law: ScalingFit | SurfaceFit, run: Point, costs: Sequence[ModelCost]) -> _Path:
    """With a surface the run grows in data at its size, with a law of size alone in size at its data."""
    log_growth = np.linspace(-math.log(MOST_COMPUTE), math.log(MOST_COMPUTE), PATH_POINTS | 1)
    here = len(log_growth) // 2
    if isinstance(law, SurfaceFit):
        n, d = np.full(len(log_growth), float(run.n_parameters)), run.atoms_seen * np.exp(log_growth)
        unique = np.full(len(d), run.unique_atoms) if math.isfinite(run.unique_atoms) else None
        fitted, draws = law.law(n, d, unique), law.law.draws(n, d, unique)
        log_compute, words = log_growth, f"longer training of {run.size}"
    else:
        n = run.n_parameters * np.exp(log_growth)
        fitted, draws = law.fit.law(n), law.fit.draws.predict(n) if law.fit.draws else None
        cost = np.log(flops_an_atom(costs, n))
        log_compute, words = cost - cost[here], "larger models on as much data"

    def fall(loss: Array) -> Array:
        return np.log(loss[..., here : here + 1]) - np.log(loss)

    return _Path(log_compute, fall(fitted), None if draws is None else fall(draws), words)


def _compute_for(fall: Array, log_compute: Array, delta: float) -> float:
    """log of the compute at which the loss has fallen by ``delta``; +-inf where the path does not go."""
    if fall[-1] <= fall[0]:
        return math.copysign(math.inf, delta)
    return float(np.interp(delta, fall, log_compute, left=-math.inf, right=math.inf))


def _with_multiplier(
    pair: TransferPair,
    match: _Match,
    delta: _Difference,
    law: ScalingFit | SurfaceFit | None,
    costs: Sequence[ModelCost],
    seed: int,
    confidence: float,
) -> TransferPair:
    """The law anchored at the measured joint loss, asked where it gives the single-domain run's."""
    if law is None or not costs:
        return replace(pair, note=f"{pair.note}; no law of the {pair.domain} loss to tell compute by")
    joint, single = (next(iter(runs.values())) for runs in (match.joint, match.single))
    path = _path(law, joint, costs)
    own = math.log(joint.flops / single.flops)
    value = _compute_for(path.fall, path.log_compute, delta.value) + own
    if not math.isfinite(value):
        side = "more than" if value > 0 else "less than 1 /"
        words = f"{path.words} would take {side} {MOST_COMPUTE:g} times the compute for the single run's loss"
        return replace(pair, note=f"{pair.note}; {words}")
    interval = None
    if path.draws is not None and delta.dof:
        rng = np.random.default_rng([seed, 2])
        n = len(path.draws)
        deltas = delta.value + delta.error * scale_factor(rng, delta.dof, n) * rng.standard_normal(n)
        logs = [
            _compute_for(fall, path.log_compute, d) + own for fall, d in zip(path.draws, deltas, strict=True)
        ]
        most = math.log(MOST_COMPUTE)
        low, high = np.quantile(np.clip(logs, -most, most), tails(confidence))
        interval = Interval(math.exp(low), math.exp(high))
    words = (
        f"by {path.words}, joint training needs {math.exp(value):.3g} times the compute of the run on "
        f"{pair.domain}s alone for its {pair.domain} loss"
    )
    return replace(pair, multiplier=Estimate(math.exp(value), interval), note=f"{pair.note}; {words}")
