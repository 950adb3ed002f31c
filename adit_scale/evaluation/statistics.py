"""Rates, their intervals, and whether two rates differ. No heavy imports.

A rate measured on a thousand samples is uncertain by about a point; a difference smaller than that is noise
and is labelled so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

DIFFERS, WITHIN_NOISE = "differs", "within noise"


def wilson_interval(successes: float, trials: float, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of a binomial proportion (Wilson 1927). No trials give (0, 1).

    Unlike the normal interval it stays inside [0, 1] and keeps a width at 0 and 1.
    """
    assert 0 <= successes <= trials, f"{successes} successes of {trials} trials"
    if trials == 0:
        return 0.0, 1.0
    z2 = NormalDist().inv_cdf(0.5 + confidence / 2) ** 2
    share = successes / trials
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half_width = math.sqrt(z2 * (share * (1 - share) + z2 / (4 * trials)) / trials) / (1 + z2 / trials)
    # At 0 and 1 an end of the interval is exactly the rate; rounding must not leave it outside.
    lower = 0.0 if successes == 0 else max(0.0, centre - half_width)
    upper = 1.0 if successes == trials else min(1.0, centre + half_width)
    return lower, upper


@dataclass(frozen=True)
class Rate:
    """A share of trials that succeeded, with its interval.

    effective_trials: how many independent trials the trials are worth, where they come in clusters (atoms
        of one molecule stand or fall together); the interval uses it in place of ``trials``.
    """

    successes: int
    trials: int
    confidence: float = 0.95
    effective_trials: float | None = None

    def __post_init__(self) -> None:
        assert 0 <= self.successes <= self.trials, f"{self.successes} successes of {self.trials} trials"

    @property
    def value(self) -> float:
        """Successes over trials; NaN without trials."""
        return self.successes / self.trials if self.trials else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson interval (lower, upper) at ``confidence``."""
        if not self.trials or self.effective_trials is None:
            return wilson_interval(self.successes, self.trials, self.confidence)
        worth = self.effective_trials
        return wilson_interval(min(self.value * worth, worth), worth, self.confidence)

    @staticmethod
    def of_clusters(successes: Sequence[int], trials: Sequence[int], confidence: float = 0.95) -> Rate:
        """The rate over all trials of clusters, ``(k_i, n_i)`` each, with an interval by clusters.

        The variance is the linearised ratio estimator's, m/(m-1)·Σ(k_i − p·n_i)²/(Σn_i)² over m clusters;
        the effective trials p(1−p)/variance then go into the Wilson interval (Korn and Graubard 1998).
        Where nothing varies (p is 0 or 1, or one cluster) each cluster counts as one trial.
        """
        k, n = np.asarray(successes, dtype=float), np.asarray(trials, dtype=float)
        assert k.shape == n.shape
        total, m = float(n.sum()), int((n > 0).sum())
        if not total:
            return Rate(0, 0, confidence)
        share = float(k.sum()) / total
        spread = float(((k - share * n) ** 2).sum())
        worth = float(m)
        if m > 1 and spread > 0 and 0 < share < 1:
            worth = share * (1 - share) / (m / (m - 1) * spread / total**2)
        return Rate(int(k.sum()), int(total), confidence, effective_trials=min(worth, total))

    def to_dict(self) -> dict[str, float | int | None]:
        """Plain JSON values; ``value`` and the interval are there to be read, not to be loaded."""
        lower, upper = self.interval
        return {
            "successes": self.successes,
            "trials": self.trials,
            "effective_trials": self.effective_trials,
            "value": self.value if self.trials else None,
            "lower": lower,
            "upper": upper,
            "confidence": self.confidence,
        }

    @staticmethod
    def from_dict(values: Mapping) -> Rate:
        return Rate(
            successes=values["successes"],
            trials=values["trials"],
            confidence=values["confidence"],
            effective_trials=values["effective_trials"],
        )


@dataclass(frozen=True)
class Comparison:
    """Difference ``first − second``, its interval at ``confidence``, the p-value of no difference and the
    verdict. The interval leaves 0 out where p_value < 1 − confidence."""

    difference: float
    lower: float
    upper: float
    p_value: float = math.nan
    confidence: float = 0.95

    @property
    def verdict(self) -> str:
        """``differs`` where the interval leaves 0 out, else ``within noise``."""
        return DIFFERS if self.lower > 0 or self.upper < 0 else WITHIN_NOISE


def compare_rates(first: Rate, second: Rate) -> Comparison:
    """Difference of two independent rates with Newcombe's interval (1998, method 10: two Wilson intervals).

    A rate without trials tells nothing: the difference is NaN, the interval (−1, 1), the p-value 1.
    The p-value is 1 − the confidence at which the interval's end is 0.
    """
    assert first.confidence == second.confidence, f"{first.confidence} against {second.confidence}"
    confidence = first.confidence
    if not first.trials or not second.trials:
        return Comparison(math.nan, -1.0, 1.0, 1.0, confidence)
    lower, upper = _newcombe(first, second)
    return Comparison(first.value - second.value, lower, upper, _newcombe_p_value(first, second), confidence)


def _newcombe(first: Rate, second: Rate) -> tuple[float, float]:
    p, q = first.value, second.value
    (p_lower, p_upper), (q_lower, q_upper) = first.interval, second.interval
    return p - q - math.hypot(p - p_lower, q_upper - q), p - q + math.hypot(p_upper - p, q - q_lower)


def _newcombe_p_value(first: Rate, second: Rate) -> float:
    """By bisection over log10 of the p-value, from 1 to 1e-15: the interval widens as it falls."""
    if first.value == second.value:
        return 1.0
    if first.value < second.value:
        first, second = second, first
    low, high = -15.0, 0.0
    for _ in range(40):
        middle = (low + high) / 2
        confidence = 1.0 - 10.0**middle
        excluded = _newcombe(replace(first, confidence=confidence), replace(second, confidence=confidence))
        low, high = (low, middle) if excluded[0] > 0 else (middle, high)
    return 10.0**high


@dataclass(frozen=True)
class SeedSpread:
    """A rate measured with several seeds of one model.

    rates: one a seed. mean: of the seeds' rates, each seed alike. sd: between the seeds' rates, as seen.
    binomial_sd: what a finite number of samples alone would make of equal rates. between_sd: what is left,
    √max(0, sd² − binomial_sd²), the moment estimate of a beta-binomial's spread. lower, upper: a t interval
    of the mean over seeds. overdispersion_p: p-value of Pearson's χ² test that all seeds have one rate.
    """

    rates: tuple[Rate, ...]
    mean: float
    sd: float
    binomial_sd: float
    between_sd: float
    lower: float
    upper: float
    overdispersion_p: float

    @staticmethod
    def of(rates: Sequence[Rate]) -> SeedSpread | None:
        """None where fewer than two seeds have trials."""
        counted = tuple(rate for rate in rates if rate.trials)
        if len(counted) < 2:
            return None
        from scipy.stats import chi2, t  # heavy

        values = np.array([rate.value for rate in counted])
        worth = np.array([_worth(rate) for rate in counted])
        k, mean, sd = len(values), float(values.mean()), float(values.std(ddof=1))
        pooled = float((values * worth).sum() / worth.sum())
        binomial_variances = pooled * (1 - pooled) / worth
        binomial_sd = math.sqrt(float(binomial_variances.mean()))
        between_sd = math.sqrt(max(0.0, sd**2 - binomial_sd**2))
        # Two seeds may agree by luck: the mean is never surer than the samples it counts.
        error = max(sd, _sampling_sd(counted)) / math.sqrt(k)
        half_width = float(t.ppf(0.5 + counted[0].confidence / 2, k - 1)) * error
        p_value = 1.0
        if 0 < pooled < 1:
            p_value = float(chi2.sf(float(((values - pooled) ** 2 / binomial_variances).sum()), k - 1))
        return SeedSpread(
            counted,
            mean,
            sd,
            binomial_sd,
            between_sd,
            max(0.0, mean - half_width),
            min(1.0, mean + half_width),
            p_value,
        )

    def to_dict(self) -> dict[str, float | list]:
        """Plain JSON values."""
        numbers = {name: value for name, value in vars(self).items() if name != "rates"}
        return numbers | {"rates": [rate.to_dict() for rate in self.rates]}

    def statement(self) -> str:
        """One line: the mean, its interval, and how much of the spread is more than counting noise."""
        share = f"{self.mean:.1%} over {len(self.rates)} seeds ({self.lower:.1%} to {self.upper:.1%})"
        spread = f"seeds differ by {self.sd:.2%} (SD), of which {self.binomial_sd:.2%} is counting noise"
        more = f"{self.between_sd:.2%} between seeds, p = {self.overdispersion_p:.2g}"
        return f"{share}; {spread} and {more}"


def _worth(rate: Rate) -> float:
    return float(rate.trials if rate.effective_trials is None else rate.effective_trials)


def _sampling_sd(rates: Sequence[Rate]) -> float:
    """Standard error of one seed's rate by its Wilson interval, which is not 0 at rates of 0 and 1."""
    z = NormalDist().inv_cdf(0.5 + rates[0].confidence / 2)
    variances = [((rate.interval[1] - rate.interval[0]) / (2 * z)) ** 2 for rate in rates]
    return math.sqrt(sum(variances) / len(variances))


def compare_runs(first: Sequence[Rate], second: Sequence[Rate]) -> Comparison:
    """Difference of the mean rates of two runs, each measured with one or more seeds.

    One seed each: Newcombe's interval; it speaks of these two trained networks, not of their recipes. With
    more seeds Welch's t interval over seeds, so that the spread between seeds counts; a side's variance is at
    least that of counting its samples. A side of one rate (real data, one seed) has its counting variance
    alone.
    """
    sides = [[rate for rate in rates if rate.trials] for rates in (first, second)]
    if not all(sides):
        confidence = next((rate.confidence for rate in (*first, *second)), 0.95)
        return Comparison(math.nan, -1.0, 1.0, 1.0, confidence)
    if len(sides[0]) == len(sides[1]) == 1:
        return compare_rates(sides[0][0], sides[1][0])
    from scipy.stats import t  # heavy

    confidence = sides[0][0].confidence
    means, squared_errors, freedoms = [], [], []
    for rates in sides:
        values = [rate.value for rate in rates]
        sd = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        means.append(float(np.mean(values)))
        squared_errors.append(max(sd, _sampling_sd(rates)) ** 2 / len(values))
        freedoms.append(len(values) - 1 if len(values) > 1 else math.inf)
    difference, error = means[0] - means[1], math.sqrt(sum(squared_errors))
    # Welch and Satterthwaite's degrees of freedom.
    freedom = sum(squared_errors) ** 2 / sum(e**2 / f for e, f in zip(squared_errors, freedoms, strict=True))
    half_width = float(t.ppf(0.5 + confidence / 2, freedom)) * error
    p_value = float(2 * t.sf(abs(difference) / error, freedom))
    return Comparison(difference, difference - half_width, difference + half_width, p_value, confidence)


def holm_adjusted(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for asking them all at once (Holm 1979), in the order given.

    Of a table of equal runs, an adjusted value below 0.05 appears in at most one table of twenty, where of
    single values one in twenty is. Valid for dependent rates, such as those of one set of samples.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [1.0] * len(p_values)
    running = 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = running
    return adjusted


def table_verdicts(comparisons: Mapping[str, Comparison]) -> dict[str, str]:
    """``differs`` or ``within noise`` of each row of a table, with Holm's adjustment over the whole table."""
    adjusted = holm_adjusted([comparison.p_value for comparison in comparisons.values()])
    return {
        name: DIFFERS if p < 1 - comparison.confidence else WITHIN_NOISE
        for (name, comparison), p in zip(comparisons.items(), adjusted, strict=True)
    }
