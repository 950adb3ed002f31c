"""A hull of published formation energies, in the energies of a model.

Published formation energies say how crystals stand to each other and to the elements, not what energy a model
gives them. Single-point energies of some of the crystals fix the elements' energies in the model; with these
every published crystal is an entry, and every element, oxygen and the halogens too, that no file has alone.
Only ratios of model to publisher enter: the model's error on compounds stays, as ``Fit.held_out`` says.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from adit_scale.atoms import AtomSet
from adit_scale.errors import ConfigError, DataError
from adit_scale.evaluation.config import EnergyConfig
from adit_scale.evaluation.energies.element_fit import (
    METHOD,
    MIN_CRYSTALS,
    Residuals,
    element_energies,
    held_out_residuals,
    of_elements,
)
from adit_scale.evaluation.energies.hull import Hull
from adit_scale.evaluation.energies.potentials import Potential
from adit_scale.evaluation.energies.published import Published
from adit_scale.evaluation.energies.references import write_entries
from adit_scale.evaluation.energies.single_points import single_points

DEFAULT_FIT, DEFAULT_CHECK = 1500, 60
_PER_ELEMENT = (MIN_CRYSTALS, 8)  # crystals of each element first, where the files have as many
_FOLDS = 5
# Of the spread of the published energies. Kilocalories, Hartree, total energies or energies of the formula
# unit leave more, and so does a model that knows nothing of these crystals.
_MAX_UNEXPLAINED = 0.5


@dataclass(frozen=True)
class Fit:
    """energies: of the elements in the model, eV/atom. crystals: of each element in the fit. dropped: without
    an energy. held_out: residuals in eV/atom of crystals by a fit without their fifth. ids: of the crystals
    fitted. failed: crystals chosen that the model gave no energy of, by reason."""

    energies: dict[str, float]
    crystals: dict[str, int]
    dropped: tuple[str, ...]
    held_out: Residuals
    ids: tuple[str, ...]
    failed: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class HullCheck:
    """Energies above hull of crystals outside the fit, eV/atom. model: the model's single-point energy above
    this hull, less the publisher's value. That is the sum of two: energy, the model's energy less that of the
    entry; hull, the entry above this hull less the publisher's value, so what the hull lacks in phases."""

    model: Residuals
    energy: Residuals
    hull: Residuals


@dataclass(frozen=True)
class FittedReport:
    path: Path
    n_entries: int
    fit: Fit
    check: HullCheck | None
    left_out: dict[str, int]

    def lines(self) -> list[str]:
        """What a user is told."""
        fit = self.fit
        rarest = sorted(fit.crystals.items(), key=lambda item: item[1])[:5]
        told = [
            f"{self.path}: {self.n_entries:,} entries, of which {len(fit.energies)} elements",
            f"fitted on {len(fit.ids):,} crystals; held out: {_mev(fit.held_out)}",
            f"crystals of the rarest elements: {', '.join(f'{s} {n}' for s, n in rarest)}",
        ]
        if self.check is not None:
            told += [
                f"energy above hull of {self.check.model.n} crystals outside the fit, less the published: "
                f"{_mev(self.check.model)}",
                f"of that by the model's energies: {_mev(self.check.energy)}",
                f"of that by phases the hull lacks: {_mev(self.check.hull)}",
            ]
        if fit.dropped:
            told.append(f"no energy of {', '.join(fit.dropped)}: crystals with these have no hull")
        told += [f"{n:,} chosen but not fitted: {reason}" for reason, n in fit.failed.items()]
        return told + [f"{n:,} left out: {reason}" for reason, n in self.left_out.items()]


def fitted_entries(
    published: Published,
    potential: Potential,
    out: Path,
    config: EnergyConfig | None = None,
    n_fit: int = DEFAULT_FIT,
    n_check: int = DEFAULT_CHECK,
    processes: int = 0,
    progress: Callable[[int], object] | None = None,
) -> FittedReport:
    """Fit the elements' energies on ``n_fit`` crystals and write all as entries; ``n_check`` crystals outside
    the fit are placed above the hull and compared. Raises DataError where model and files do not agree."""
    config = config or EnergyConfig()
    chosen, rest = choose_crystals(published, n_fit, n_check)
    asked = [published.crystals[i] for i in (*chosen, *rest)]
    found = single_points(asked, potential, config, processes, progress)
    energy = np.full(len(published.crystals), np.nan)
    energy[[*chosen, *rest]] = [point.energy for point in found]
    failed = Counter(point.fault for point in found[: len(chosen)] if point.fault)
    symbols, share_ce = _shares(published.crystals)
    fit = _fit(published, symbols, share_ce, energy, chosen, dict(failed))
    energies_e = np.array([fit.energies.get(symbol, np.nan) for symbol in symbols])
    reference_c = of_elements(share_ce, energies_e)
    left_out = Counter(published.left_out)
    left_out.update({"no energy of an element": int(np.isnan(reference_c).sum())})
    entries = [(f"element {s}", s, e) for s, e in fit.energies.items()]
    entries += [
        (name, _formula(crystal), total)
        for name, crystal, total in zip(
            published.names, published.crystals, (published.formation + reference_c).tolist(), strict=True
        )
        if np.isfinite(total)
    ]
    about: dict[str, Any] = {
        "energies": _said(published, potential, fit),
        "model": potential.describe(),
        "sources": published.files,
        "fit": {"method": f"{METHOD}, at least {MIN_CRYSTALS} crystals an element"} | asdict(fit),
        "left_out": {k: n for k, n in left_out.items() if n},
    }
    write_entries(out, about, entries)
    check = _check(Hull.read(out), published, rest, energy, reference_c)
    if check is not None:
        write_entries(out, about | {"check": asdict(check)}, entries)
    return FittedReport(out, len(entries), fit, check, about["left_out"])


def choose_crystals(published: Published, n_fit: int, n_check: int) -> tuple[list[int], list[int]]:
    """Places of crystals for the fit and, apart from them, for the check.

    For the fit the lowest above the publisher's hull (those of unknown height last), first three and then
    eight of each element, the rarest element first; ties go by a hash of the id, so that the choice does not
    hang on the files' order. The check takes any others that have an energy above hull, by that hash.
    """
    if n_fit < 1:
        raise ConfigError(f"fit is {n_fit}; expected 1 or more crystals")
    hashes = [_hash(name) for name in published.names]
    height = np.round(np.nan_to_num(published.above_hull, nan=np.inf), 3).tolist()
    order = sorted(range(len(hashes)), key=lambda i: (height[i], hashes[i]))
    kinds = [np.unique(crystal.numbers).tolist() for crystal in published.crystals]
    of_element: dict[int, list[int]] = {}
    for i in order:
        for z in kinds[i]:
            of_element.setdefault(z, []).append(i)
    chosen: dict[int, None] = {}  # ordered
    count: Counter[int] = Counter()
    for wanted in _PER_ELEMENT:
        for z in sorted(of_element, key=lambda z: (len(of_element[z]), z)):
            for i in of_element[z]:
                if count[z] >= wanted:
                    break
                if i not in chosen:
                    chosen[i] = None
                    count.update(kinds[i])
    fitted = [*chosen, *(i for i in order if i not in chosen)][:n_fit]
    others = [i for i in set(range(len(hashes))).difference(fitted) if np.isfinite(published.above_hull[i])]
    return fitted, sorted(others, key=hashes.__getitem__)[:n_check]


def _fit(
    published: Published,
    symbols: Sequence[str],
    share_ce: np.ndarray,
    energy_c: np.ndarray,
    chosen: Sequence[int],
    failed: dict[str, int],
) -> Fit:
    known = [i for i in chosen if np.isfinite(energy_c[i])]
    share, target = share_ce[known], energy_c[known] - published.formation[known]
    energies = element_energies(share, target)
    names = [published.names[i] for i in known]
    fold = np.array([_hash(name) % _FOLDS for name in names], dtype=np.int64)
    residual = held_out_residuals(share, target, fold, _FOLDS)
    held_out = Residuals.of(residual)
    if not np.isfinite(energies).any():
        raise DataError(
            f"{len(known)} crystals determine no element's energy ({_reasons(failed)}); expected at least "
            f"{MIN_CRYSTALS} of each element, in different proportions, see fit"
        )
    of = published.formation[known]
    spread = float(np.median(np.abs(of - np.median(of))))
    if held_out.n and held_out.median_absolute > max(_MAX_UNEXPLAINED * spread, 1e-3):
        raise DataError(
            f"{published.column} and the model differ by {1000 * held_out.median_absolute:.0f} meV/atom in "
            f"the median after the fit, where the column varies by {1000 * spread:.0f}; expected formation "
            "energies in eV/atom, and a model of such crystals"
        )
    has = np.isfinite(energies)
    return Fit(
        {s: float(e) for s, e in zip(symbols, energies, strict=True) if np.isfinite(e)},
        {s: int(n) for s, n, ok in zip(symbols, (share > 0).sum(axis=0), has, strict=True) if ok},
        tuple(s for s, ok in zip(symbols, has, strict=True) if not ok),
        held_out,
        tuple(names),
        failed,
    )


def _check(
    hull: Hull, published: Published, places: Sequence[int], energy_c: np.ndarray, reference_c: np.ndarray
) -> HullCheck | None:
    """None where no crystal can be compared."""
    entry_c = published.formation + reference_c
    compared = [i for i in places if np.isfinite(energy_c[i]) and np.isfinite(entry_c[i])]
    if not compared:
        return None
    above = [hull.place(published.crystals[i].numbers, float(entry_c[i])).above_hull for i in compared]
    lacking = np.array(above) - published.above_hull[compared]
    error = energy_c[compared] - entry_c[compared]
    return HullCheck(Residuals.of(error + lacking), Residuals.of(error), Residuals.of(lacking))


def _said(published: Published, potential: Potential, fit: Fit) -> str:
    """The kind of energies, as protocols quote it."""
    model = potential.describe().partition(" (")[0]
    return (
        f"published formation energies ({published.column}) on fitted references of {model}, "
        f"off by {1000 * fit.held_out.mean_absolute:.0f} meV/atom in the mean, "
        f"{1000 * fit.held_out.median_absolute:.0f} in the median"
    )


def _shares(crystals: Sequence[AtomSet]) -> tuple[list[str], np.ndarray]:
    """Symbols of the elements there are, and the share of each in each crystal ``(c, e)``."""
    from ase.data import chemical_symbols

    counts = np.array([np.bincount(crystal.numbers, minlength=119) for crystal in crystals])
    present = np.flatnonzero(counts.any(axis=0))
    shares = counts[:, present] / counts.sum(axis=1, keepdims=True)
    return [chemical_symbols[z] for z in present], shares


def _formula(crystal: AtomSet) -> str:
    from ase.symbols import Symbols

    return str(Symbols(crystal.numbers).get_chemical_formula())


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def _mev(residuals: Residuals) -> str:
    r = residuals
    return (
        f"mean absolute {1000 * r.mean_absolute:.1f} meV/atom, median {1000 * r.median_absolute:.1f}, "
        f"95% under {1000 * r.quantile95:.1f}, bias {1000 * r.bias:+.1f}"
    )


def _reasons(failed: dict[str, Any]) -> str:
    return ", ".join(f"{n} {reason}" for reason, n in failed.items()) or "none failed"
