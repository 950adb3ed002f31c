"""Finished VASP calculations as verdicts: relaxed, above the hull, stable.

Every calculation of the manifest is a row. One that was not run, is torn or did not converge fails with its
reason. Energies are those of the last ionic step (sigma to 0), with MP2020 corrections (needed against the
Materials Project's entries) or without.
"""

from __future__ import annotations

import gzip
import json
import warnings
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from adit_scale.atoms import CRYSTAL, AtomSet
from adit_scale.errors import ConfigError
from adit_scale.evaluation.config import EvaluationConfig
from adit_scale.evaluation.energies.dft_inputs import Calculation, Manifest, read_manifest
from adit_scale.evaluation.energies.hull import Hull, Place, kinds_note
from adit_scale.evaluation.energies.judge import add_relaxations, add_stability
from adit_scale.evaluation.energies.relaxation import Relaxation, displacement
from adit_scale.evaluation.energies.sun import add_discovery
from adit_scale.evaluation.limited import Overrun, map_limited
from adit_scale.evaluation.verdicts import Verdicts

if TYPE_CHECKING:
    from pymatgen.entries.computed_entries import ComputedStructureEntry

_INLINE = 20  # as many are read sooner than processes start
CORRECTIONS = ("mp2020", "none")
NAMES = ("vasprun.xml", "vasprun.xml.gz", "vasprun.xml.relax2", "vasprun.xml.relax2.gz")
NO_INPUTS = "no inputs were written"
NOT_RUN = "not run: no vasprun.xml"
TORN = "vasprun.xml is torn or none"
NO_ELECTRONIC = "electronic steps did not converge"
NO_IONIC = "ionic steps did not converge"
NO_ENERGY = "energy is not finite"
OTHER_ATOMS = "another composition than the sample"
NO_CORRECTION = "MP2020 corrections do not apply: {}"
_SCHEMES = {"mp2020": "GGA/GGA+U with MP2020 corrections", "none": "without corrections"}


@dataclass(frozen=True)
class DftResults:
    """verdicts: a row a calculation. relaxed: final structures, None where it failed. manifest: what was
    computed, and of how many samples it was chosen."""

    manifest: Manifest
    verdicts: Verdicts
    relaxed: list[AtomSet | None]

    def write(self, out: Path) -> list[Path]:
        """``dft_verdicts.csv`` and ``dft_entries.json``, which can be part of a hull."""
        out.mkdir(parents=True, exist_ok=True)
        table, entries = out / "dft_verdicts.csv", out / "dft_entries.json"
        self.verdicts.write_csv(table)
        energies = self.verdicts.values["relaxed_energy_ev_per_atom"]
        found = [
            {"composition": c.formula, "energy_ev_per_atom": float(e), "id": c.id}
            for c, e in zip(self.manifest.calculations, energies, strict=True)
            if np.isfinite(e)
        ]
        protocol = self.verdicts.checks["relaxed"].protocol
        entries.write_text(json.dumps({"energies": protocol, "entries": found}, indent=1) + "\n")
        return [table, entries]


def read_dft_results(
    folder: Path,
    config: EvaluationConfig,
    hull: Path | None = None,
    corrections: str = "mp2020",
    known: Sequence[AtomSet] | None = None,
    progress: Callable[[int], object] | None = None,
) -> DftResults:
    """Of a folder of ``adit evaluate dft-inputs``. hull: reference entries of the same kind of energies.

    Raises ConfigError or DataError for a folder, hull or correction that is none; whatever is wrong with a
    calculation is that calculation's reason.
    """
    if corrections not in CORRECTIONS:
        raise ConfigError(f"corrections is {corrections!r}; expected one of {', '.join(CORRECTIONS)}")
    manifest = read_manifest(folder)
    reference = Hull.read(hull) if hull is not None else None
    if reference is not None and reference.model:
        raise ConfigError(
            f"{hull}: a hull for energies of {reference.model}; expected DFT entries, corrected alike"
        )
    calculations = manifest.calculations
    answers = map_limited(
        partial(read_calculation, folder, corrections),
        calculations,
        limit_s=config.energies.relax_limit_s,
        processes=config.worker_processes() if len(calculations) > _INLINE else 0,
        progress=progress,
    )
    found = [Relaxation(a.reason) if isinstance(a, Overrun) else a for a in answers]
    verdicts = Verdicts(CRYSTAL, [c.id for c in calculations], np.array([c.n_atoms for c in calculations]))
    protocol = f"VASP, last ionic step, {_SCHEMES[corrections]}, pymatgen {version('pymatgen')}"
    add_relaxations(verdicts, found, protocol)
    relaxed = [r.relaxed for r in found]
    if reference is not None:
        places = [_place(reference, r) for r in found]
        note = f"{protocol}; {reference.describe()}; {kinds_note(_SCHEMES[corrections], reference.energies)}"
        add_stability(verdicts, places, config, note)
        add_discovery(verdicts, relaxed, known, config)
    return DftResults(manifest, verdicts, relaxed)


def _place(hull: Hull, relaxation: Relaxation) -> Place:
    if relaxation.relaxed is None:
        return Place(fault=relaxation.fault)
    return hull.place(relaxation.relaxed.numbers, relaxation.relaxed_energy)


def read_calculation(folder: Path, corrections: str, calculation: Calculation) -> Relaxation:
    """One calculation; energies in eV/atom, corrections included in both."""
    if calculation.reason:
        return Relaxation(NO_INPUTS)
    path = next((p for name in NAMES if (p := folder / calculation.folder / name).is_file()), None)
    if path is None:
        return Relaxation(NOT_RUN)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no POTCAR beside it, not converged: reasons here
        return _read(path, corrections, calculation)


def _read(path: Path, corrections: str, calculation: Calculation) -> Relaxation:
    from lxml import etree
    from pymatgen.core import Composition
    from pymatgen.entries.computed_entries import ComputedStructureEntry
    from pymatgen.io.vasp.outputs import Vasprun

    try:
        if not _plain(path):
            return Relaxation(TORN)
        run = Vasprun(str(path), parse_dos=False, parse_eigen=False, parse_potcar_file=False)
        if not run.converged_electronic:
            return Relaxation(NO_ELECTRONIC)
        if not run.converged_ionic:
            return Relaxation(NO_IONIC)
        entry = run.get_computed_entry(entry_id=calculation.id or "sample")
        assert isinstance(entry, ComputedStructureEntry)
        first = float(run.ionic_steps[0]["e_0_energy"])
    except (etree.XMLSyntaxError, ValueError, LookupError, AttributeError, TypeError, EOFError, zlib.error):
        return Relaxation(TORN)
    if not np.isfinite([entry.energy, first]).all():
        return Relaxation(NO_ENERGY)
    if entry.composition != Composition(calculation.formula):
        return Relaxation(OTHER_ATOMS)
    if corrections == "mp2020":
        fault = _correct(entry)
        if fault is not None:
            return Relaxation(fault)
    n = len(run.final_structure)
    before, after = run.initial_structure, run.final_structure
    moved = after.frac_coords - before.frac_coords
    moved -= np.round(moved)  # VASP wraps positions into the cell
    positions = (before.frac_coords + moved) @ after.lattice.matrix
    return Relaxation(
        None,
        energy=(first + entry.correction) / n,
        relaxed_energy=float(entry.energy_per_atom),
        rmsd=displacement(before.cart_coords, before.lattice.matrix, positions, after.lattice.matrix),
        volume_ratio=after.volume / before.volume,
        steps=len(run.ionic_steps),
        relaxed=AtomSet(
            np.array(after.atomic_numbers),
            after.cart_coords,
            after.lattice.matrix.copy(),
            periodic=True,
            dataset="dft",
            id=calculation.id,
        ),
    )


def _plain(path: Path) -> bool:
    """False for XML with a document type: VASP writes none, and its entities could read or fill anything."""
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
        return b"<!DOCTYPE" not in stream.read(1 << 16).upper()


def _correct(entry: ComputedStructureEntry) -> str | None:
    """Apply MP2020 corrections in place; why they do not apply, or None."""
    from pymatgen.entries.compatibility import CompatibilityError, MaterialsProject2020Compatibility

    scheme = MaterialsProject2020Compatibility(check_potcar=True)
    try:
        if not scheme.process_entries([entry], inplace=True, on_error="raise"):
            return NO_CORRECTION.format("other settings than the Materials Project's")
    except (CompatibilityError, ValueError, LookupError) as error:
        return NO_CORRECTION.format((str(error).splitlines() or [""])[0][:120])
    return None
