"""Elemental reference energies, by robust least squares over compounds.

Of crystals with energy ``E`` (eV/atom, of a model), shares ``x`` of the elements and published formation
energy ``f``: ``E = f + Σ x μ`` is solved for the elements' energies ``μ``. Huber's loss (1964), by
iteratively reweighted least squares with the scale from the median absolute residual, as in Holland and
Welsch (1977): the few crystals that the model gets badly wrong pull little. Elements that the crystals do not
determine have no energy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MIN_CRYSTALS = 3  # of an element, to be fitted
METHOD = "least squares with Huber's loss at 1.345 robust standard deviations"
_TUNING = 1.345  # 95% efficient for normal residuals
_MIN_SCALE_EV = 1e-4  # so that exact data do not divide by nothing
_ROUNDS = 200


@dataclass(frozen=True)
class Residuals:
    """Of ``n`` values, eV/atom: mean absolute, median absolute, 95% quantile of the absolute, and mean."""

    n: int
    mean_absolute: float
    median_absolute: float
    quantile95: float
    bias: float

    @staticmethod
    def of(values: np.ndarray) -> Residuals:
        """values (n,): NaN where not known."""
        known = values[np.isfinite(values)]
        if not len(known):
            return Residuals(0, *[float("nan")] * 4)
        size = np.abs(known)
        return Residuals(
            len(known),
            float(size.mean()),
            float(np.median(size)),
            float(np.quantile(size, 0.95)),
            float(known.mean()),
        )


def element_energies(
    share_ce: np.ndarray, target_c: np.ndarray, min_crystals: int = MIN_CRYSTALS
) -> np.ndarray:
    """``(elements,)`` eV/atom, NaN where not determined.

    share_ce: of each element in each crystal, rows sum to 1. target_c: energy less formation energy, eV/atom.
    """
    used_c, used_e = _determined(share_ce, min_crystals)
    energies = np.full(share_ce.shape[1], np.nan)
    if used_c.any():
        energies[used_e] = _huber(share_ce[used_c][:, used_e], target_c[used_c])
    return energies


def of_elements(share_ce: np.ndarray, energies_e: np.ndarray) -> np.ndarray:
    """``Σ x μ`` ``(crystals,)``, NaN where an element of the crystal has no energy."""
    return np.where(share_ce > 0, share_ce * energies_e, 0.0).sum(axis=1)


def held_out_residuals(
    share_ce: np.ndarray, target_c: np.ndarray, fold_c: np.ndarray, n_folds: int
) -> np.ndarray:
    """``(crystals,)`` eV/atom: each crystal's target less that of a fit without its fold; NaN where the
    others do not determine its elements."""
    residual_c = np.full(len(target_c), np.nan)
    for fold in range(n_folds):
        out = fold_c == fold
        energies = element_energies(share_ce[~out], target_c[~out], min_crystals=2)
        residual_c[out] = target_c[out] - of_elements(share_ce[out], energies)
    return residual_c


def _determined(share_ce: np.ndarray, min_crystals: int) -> tuple[np.ndarray, np.ndarray]:
    """Which crystals and elements to use: a crystal of an element left out is left out as well."""
    used_c = np.ones(len(share_ce), dtype=bool)
    used_e = np.asarray((share_ce > 0).any(axis=0))
    while used_c.any():
        shares = share_ce[used_c][:, used_e]
        enough = (shares > 0).sum(axis=0) >= min_crystals
        if enough.all():
            # Elements that only ever come in one proportion: their sum is known, their shares are not.
            squares, vectors = np.linalg.eigh(shares.T @ shares)
            free = vectors[:, squares < 1e-10 * squares[-1]]
            enough = (np.abs(free) < 1e-6).all(axis=1)
        if enough.all():
            break
        used_e[np.flatnonzero(used_e)[~enough]] = False
        used_c = (share_ce[:, ~used_e] == 0).all(axis=1)
    return used_c, used_e


def _huber(share_ce: np.ndarray, target_c: np.ndarray) -> np.ndarray:
    weight_c = np.ones(len(target_c))
    energies = np.zeros(share_ce.shape[1])
    for _ in range(_ROUNDS):
        root = np.sqrt(weight_c)
        last = energies
        energies = np.linalg.lstsq(share_ce * root[:, None], target_c * root, rcond=None)[0]
        if np.abs(energies - last).max() < 1e-7:
            break
        size_c = np.abs(target_c - share_ce @ energies)
        limit = _TUNING * max(1.4826 * float(np.median(size_c)), _MIN_SCALE_EV)
        weight_c = limit / np.maximum(size_c, limit)
    return energies
