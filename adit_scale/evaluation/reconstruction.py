"""The autoencoder's ceiling: real structures encoded, decoded, and compared with what they were.

Nothing that is drawn from the latent space can be better than what the decoder makes of true latents. So the
same judges score reconstructions as they score samples, and here stand the field's distances:

crystals    StructureMatcher at the tolerances of CDVAE and DiffCSP (stol 0.5, angle_tol 10°, ltol 0.3).
            ``match_rate`` is over all crystals given: one that does not match, decodes to no cell or is cut
            off by the time limit counts against it. ``rmsd_normalised`` is the mean over matched crystals of
            the root mean square distance of matched sites over (V/n)^(1/3), V/n the mean volume an atom.
molecules   Root mean square distance of atoms after the best rotation without reflection (Kabsch), atoms in
            the order they went in. A match has every type right and a distance under 0.5 angstrom.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from adit_scale.atoms import CRYSTAL, DOMAIN_NAMES, MOLECULE, AtomSet
from adit_scale.data.packing import pack_sets
from adit_scale.evaluation.config import EvaluationConfig
from adit_scale.evaluation.decode import Invalid, decode_sets
from adit_scale.evaluation.limited import Overrun, map_limited
from adit_scale.evaluation.reconstruction_errors import Reconstruction, compare_reconstruction
from adit_scale.evaluation.statistics import Rate
from adit_scale.models.autoencoder import Autoencoder

__all__ = [
    "Reconstruction",
    "ReconstructionReport",
    "compare_reconstruction",
    "compare_reconstructions",
    "kabsch_rmsd",
    "reconstruct_sets",
    "reconstructions",
]

MATCH_RMSD_ANGSTROM = 0.5  # of a molecule whose types are right
RMSD_STEPS_ANGSTROM = (0.05, 0.1, 0.5)  # shares of molecules below these are rates

OTHER_TYPES = "other atom types"
FAR = f"atoms off by {MATCH_RMSD_ANGSTROM} Å or more"

Pair = tuple[AtomSet, AtomSet | Invalid]


@dataclass
class ReconstructionReport:
    """Flat names from ``reconstruction/`` on. metrics: means; rates: over all sets given of their domain;
    reasons: of a match rate, how many sets failed it for which reason."""

    metrics: dict[str, float] = field(default_factory=dict)
    rates: dict[str, Rate] = field(default_factory=dict)
    reasons: dict[str, dict[str, int]] = field(default_factory=dict)

    def flat_values(self) -> dict[str, float]:
        """Numbers for the journal: the metrics, and each rate with its bounds and trials."""
        values = dict(self.metrics)
        for name, rate in self.rates.items():
            if rate.trials:
                lower, upper = rate.interval
                values |= {name: rate.value, f"{name}_lower": lower, f"{name}_upper": upper}
                values[f"{name}_trials"] = float(rate.trials)
        return values


# -- through the autoencoder -----------------------------------------------------------------------------


@torch.no_grad()
def reconstruct_sets(
    autoencoder: Autoencoder, sets: Sequence[AtomSet], batch_atoms: int = 4096
) -> list[Pair]:
    """Each set with what the decoder makes of its posterior's mean, in the order of ``sets``.

    Runs on the device of the autoencoder's weights, in batches of about ``batch_atoms`` atoms.
    """
    device = next(autoencoder.parameters()).device
    found: dict[int, AtomSet | Invalid] = {}
    for places in _batches([len(s) for s in sets], batch_atoms):
        batch = pack_sets([sets[i] for i in places]).to(device)
        posterior = autoencoder.encode(batch.numbers_t, batch.positions_t3, batch.fractional_t3, batch.layout)
        decoded = autoencoder.decode(posterior.mean_td, batch.layout)
        ids = [sets[i].id for i in places]
        found.update(
            zip(places, decode_sets(decoded, batch.layout, batch.domain_s, "reconstructed", ids), strict=True)
        )
    return [(original, found[i]) for i, original in enumerate(sets)]


def _batches(sizes: Sequence[int], batch_atoms: int) -> Iterator[list[int]]:
    """Places of sets, equal sizes side by side, in runs of at most ``batch_atoms`` atoms (or one set)."""
    batch: list[int] = []
    n_atoms = 0
    for place in np.argsort(np.asarray(sizes), kind="stable").tolist():
        if batch and n_atoms + sizes[place] > batch_atoms:
            yield batch
            batch, n_atoms = [], 0
        batch.append(place)
        n_atoms += sizes[place]
    if batch:
        yield batch


def reconstructions(pairs: Iterable[Pair], domain: int) -> list[AtomSet | Invalid]:
    """The reconstructions of a domain in order, as the domain's judge takes samples."""
    return [decoded for original, decoded in pairs if domain_of(original) == domain]


def domain_of(original: AtomSet) -> int:
    return CRYSTAL if original.periodic else MOLECULE


# -- how far off -----------------------------------------------------------------------------------------


def compare_reconstructions(
    pairs: Sequence[Pair],
    config: EvaluationConfig,
    *,
    processes: int = 1,
    progress: Callable[[int], object] | None = None,
) -> ReconstructionReport:
    """Match rates, distances and type accuracies of pairs; a domain without pairs has none.

    processes: of the crystals' matching; 0 matches inline, without the limit of ``config.call_limit_s`` a
    crystal. progress: called with the number of crystals just matched.
    """
    report = ReconstructionReport()
    for domain, name in DOMAIN_NAMES.items():
        own = [pair for pair in pairs if domain_of(pair[0]) == domain]
        if own:
            _count_types(own, f"reconstruction/{name}", config.confidence, report)
    molecules = [pair for pair in pairs if domain_of(pair[0]) == MOLECULE]
    crystals = [pair for pair in pairs if domain_of(pair[0]) == CRYSTAL]
    if molecules:
        _compare_molecules(molecules, config.confidence, report)
    if crystals:
        _compare_crystals(crystals, config, processes, progress, report)
    return report


def _count_types(pairs: Sequence[Pair], prefix: str, confidence: float, report: ReconstructionReport) -> None:
    """Shares of atoms of the right type, of sets with all types right, of sets that are systems of atoms."""
    right = [int((original.numbers == decoded.numbers).sum()) for original, decoded in pairs]
    sizes = [len(original) for original, _ in pairs]
    exact = sum(k == n for k, n in zip(right, sizes, strict=True))
    decodable = sum(isinstance(decoded, AtomSet) for _, decoded in pairs)
    report.rates[f"{prefix}/atom_type_accuracy"] = Rate.of_clusters(right, sizes, confidence)
    report.rates[f"{prefix}/exact_types"] = Rate(exact, len(pairs), confidence)
    report.rates[f"{prefix}/decodable"] = Rate(decodable, len(pairs), confidence)


def _compare_molecules(pairs: Sequence[Pair], confidence: float, report: ReconstructionReport) -> None:
    prefix, n = "reconstruction/molecule", len(pairs)
    systems = [(i, a.positions, b.positions) for i, (a, b) in enumerate(pairs) if isinstance(b, AtomSet)]
    rmsd_n = np.full(n, np.inf)
    if systems:
        places, true, decoded = zip(*systems, strict=True)
        rmsd_n[list(places)] = kabsch_rmsd(true, decoded)
        finite = rmsd_n[np.isfinite(rmsd_n)]
        report.metrics[f"{prefix}/rmsd_angstrom"] = float(finite.mean())
        report.metrics[f"{prefix}/rmsd_median_angstrom"] = float(np.median(finite))
    for step in RMSD_STEPS_ANGSTROM:
        below = int((rmsd_n < step).sum())
        report.rates[f"{prefix}/rmsd_below_{step:g}_angstrom"] = Rate(below, n, confidence)
    faults: list[str | None] = []
    for (original, found), rmsd in zip(pairs, rmsd_n.tolist(), strict=True):
        if isinstance(found, Invalid):
            faults.append(found.reason)
        elif not np.array_equal(original.numbers, found.numbers):
            faults.append(OTHER_TYPES)
        else:
            faults.append(None if rmsd < MATCH_RMSD_ANGSTROM else FAR)
    _add_match_rate(faults, prefix, confidence, report)


def kabsch_rmsd(true: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> np.ndarray:
    """``(M,)`` root mean square distances in angstrom after the best proper rotation of each molecule.

    true, found: ``(n_i, 3)`` each, atom k of one standing for atom k of the other. Kabsch (1976, 1978): with
    H = Σ p qᵀ of the centred positions and H = U S Vᵀ, the rotation is V diag(1, 1, det(V Uᵀ)) Uᵀ.
    """
    sizes = np.array([len(positions) for positions in true])
    assert [len(positions) for positions in found] == sizes.tolist()
    starts = np.cumsum(sizes) - sizes
    of_atom = np.repeat(np.arange(len(sizes)), sizes)
    p, q = (
        _centred(np.concatenate(list(sides)).astype(np.float64), starts, sizes, of_atom)
        for sides in (true, found)
    )
    u, _, vt = np.linalg.svd(np.add.reduceat(p[:, :, None] * q[:, None, :], starts, axis=0))
    # The last axis is turned round where the best orthogonal map would be a reflection.
    u[:, :, 2] *= np.where(np.linalg.det(u) * np.linalg.det(vt) < 0, -1.0, 1.0)[:, None]
    rotation = u @ vt  # rows: p_row @ rotation is near q_row
    moved = np.einsum("ti,tij->tj", p, rotation[of_atom])
    squared = np.add.reduceat(((moved - q) ** 2).sum(axis=1), starts)
    return np.asarray(np.sqrt(squared / sizes))


def _centred(flat: np.ndarray, starts: np.ndarray, sizes: np.ndarray, of_atom: np.ndarray) -> np.ndarray:
    return np.asarray(flat - (np.add.reduceat(flat, starts, axis=0) / sizes[:, None])[of_atom])


def _compare_crystals(
    pairs: Sequence[Pair],
    config: EvaluationConfig,
    processes: int,
    progress: Callable[[int], object] | None,
    report: ReconstructionReport,
) -> None:
    from adit_scale.evaluation.reconstruction_match import match_crystal  # heavy

    prefix = "reconstruction/crystal"
    found = map_limited(
        match_crystal, pairs, limit_s=config.call_limit_s, processes=processes, progress=progress
    )
    faults = [f.reason if isinstance(f, Overrun) else (f if isinstance(f, str) else None) for f in found]
    rmsds = [f for f in found if isinstance(f, float)]
    if rmsds:
        report.metrics[f"{prefix}/rmsd_normalised"] = math.fsum(rmsds) / len(rmsds)
    _add_match_rate(faults, prefix, config.confidence, report)


def _add_match_rate(
    faults: Sequence[str | None], prefix: str, confidence: float, report: ReconstructionReport
) -> None:
    n_matched = sum(fault is None for fault in faults)
    report.rates[f"{prefix}/match_rate"] = Rate(n_matched, len(faults), confidence)
    counted = Counter(fault for fault in faults if fault is not None)
    report.reasons[f"{prefix}/match_rate"] = dict(counted.most_common())
