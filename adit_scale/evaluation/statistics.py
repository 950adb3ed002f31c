"""Rates, their intervals, and whether two rates differ. No heavy imports.

A rate measured on a thousand samples is uncertain by about a point; a difference smaller than that is noise
and is labelled so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    """Difference ``first − second`` of two rates, its interval and the verdict."""

    difference: float
    lower: float
    upper: float

    @property
    def verdict(self) -> str:
        """``differs`` where the interval leaves 0 out, else ``within noise``."""
        return DIFFERS if self.lower > 0 or self.upper < 0 else WITHIN_NOISE


def compare_rates(first: Rate, second: Rate) -> Comparison:
    """Difference of two independent rates with Newcombe's interval (1998, method 10: two Wilson intervals).

    A rate without trials tells nothing: the difference is NaN, the interval (−1, 1).
    """
    assert first.confidence == second.confidence, f"{first.confidence} against {second.confidence}"
    if not first.trials or not second.trials:
        return Comparison(math.nan, -1.0, 1.0)
    p, q = first.value, second.value
    (p_lower, p_upper), (q_lower, q_upper) = first.interval, second.interval
    return Comparison(
        difference=p - q,
        lower=p - q - math.hypot(p - p_lower, q_upper - q),
        upper=p - q + math.hypot(p_upper - p, q - q_lower),
    )
