"""PoseBusters' checks of a single molecule (its ``mol`` config), each under its own name, and all of them.

The molecule is that of RDKit's DetermineBonds. A sample without bonds fails every check, so that rates are
over all samples; PoseBusters' authors quote them on valid molecules only.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from typing import Any

from rdkit import Chem

from adit_scale.errors import ConfigError
from adit_scale.evaluation.molecules.common import Importing, Limits
from adit_scale.evaluation.molecules.determine_bonds import Determined, restored
from adit_scale.evaluation.molecules.pose_geometry import check_geometry
from adit_scale.evaluation.verdicts import Check, Verdicts

# Checks in PoseBusters' order, under the names of its tables, and why a sample fails each.
REASONS = {
    "mol_pred_loaded": "not a molecule",
    "sanitization": "does not sanitise",
    "inchi_convertible": "no InChI",
    "all_atoms_connected": "more than one fragment",
    "no_radicals": "radical electrons",
    "bond_lengths": "a bond length out of bounds",
    "bond_angles": "a bond angle out of bounds",
    "internal_steric_clash": "atoms clash",
    "aromatic_ring_flatness": "an aromatic ring is not flat",
    "non-aromatic_ring_non-flatness": "a saturated ring is flat",
    "double_bond_flatness": "a double bond is not flat",
    "internal_energy": "internal energy too high",
}
ENERGY = "internal_energy"
VERSION = "0.6."

Module = Callable[[Chem.Mol], dict[str, Any]]


def check_names(energy: bool) -> list[str]:
    """PoseBusters' checks in order; the energy check alone takes longer than all others."""
    return [name for name in REASONS if energy or name != ENERGY]


def require_posebusters() -> None:
    """Raises ConfigError where PoseBusters is not installed, or not of the version whose rules are ours."""
    if importlib.util.find_spec("posebusters") is None:
        raise ConfigError(
            "evaluation.protocols has posebusters, but the package posebusters is not installed; "
            "pip install 'adit-scale[chemistry]' or take posebusters out"
        )
    if not version("posebusters").startswith(VERSION):
        raise ConfigError(
            f"evaluation.protocols has posebusters, but PoseBusters is {version('posebusters')}; "
            f"expected {VERSION}*, whose geometry checks are built in here"
        )


@functools.cache
def _modules(energy: bool) -> list[tuple[dict[str, str], Module]]:
    """Of each module of the ``mol`` config: its outputs, by the names of their checks, and its function."""
    from posebusters import PoseBusters  # seconds to import, and it redirects RDKit's log
    from posebusters.posebusters import module_dict

    modules: dict[str, tuple[dict[str, str], Module]] = {}
    for entry in PoseBusters(config="mol").config["modules"]:
        name, parameters = entry["function"], dict(entry.get("parameters", {}))
        if name == "energy_ratio":
            if not energy:
                continue
            parameters["num_threads"] = 1  # the processes of the pool share the cores
        renamed = entry.get("rename_outputs", {})
        outputs = {
            renamed.get(output, output).lower().replace(" ", "_"): output
            for output in entry.get("chosen_binary_test_output", [])
        }
        function = (
            _geometry(parameters)
            if name == "distance_geometry"
            else functools.partial(_results, module_dict[name], parameters)
        )
        # The config lists the energy module twice, once without an output.
        if outputs:
            modules["+".join(outputs)] = (outputs, function)
    found = [name for outputs, _ in modules.values() for name in outputs]
    assert found == check_names(energy), found
    return list(modules.values())


def _results(function: Callable, parameters: dict[str, Any], mol: Chem.Mol) -> dict[str, Any]:
    return dict(function(mol_pred=mol, **parameters)["results"])


def _geometry(parameters: dict[str, Any]) -> Module:
    """Our geometry checks with the config's thresholds."""
    assert parameters.pop("ignore_hydrogens") is True
    assert parameters.pop("sanitize") is True
    return functools.partial(check_geometry, **parameters)


def bust(mol: bytes, energy: bool) -> tuple[bool, ...]:
    """The verdicts of ``check_names(energy)`` on one molecule with bonds and a conformer.

    An output that PoseBusters could not compute (NaN, or a module that raised) is a failure, as in its own
    counts.
    """
    molecule = restored(mol)
    verdicts: list[bool] = []
    with _quiet():
        # In the config's order and on one object: the radicals' module sanitises it for those after it.
        for outputs, function in _modules(energy):
            try:
                results = function(molecule)
            except (ValueError, RuntimeError):  # RDKit's and NumPy's
                results = {}
            verdicts += [bool(results.get(output) == 1) for output in outputs.values()]
    return tuple(verdicts)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """PoseBusters routes RDKit's messages into Python's log and warns of every molecule that fails."""
    loggers = [logging.getLogger(name) for name in ("rdkit", "posebusters")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def add_posebusters(
    verdicts: Verdicts,
    found: Sequence[Determined],
    energy: bool,
    limits: Limits,
    progress: Callable[[int], object] | None = None,
) -> None:
    """Checks ``posebusters_<check>`` and ``posebusters``, all of them. Raises ConfigError without it."""
    require_posebusters()
    # A molecule with bonds is asked although it is not valid by RDKit's protocol: its checks say why.
    reasons = [None if result.mol is not None else result.fault or "" for result in found]
    function = Importing("posebusters", functools.partial(bust, energy=energy))
    answers = limits.map(function, [result.mol for result in found], reasons, progress)
    source = (
        f"PoseBusters {version('posebusters')}, config mol{'' if energy else ' without its energy check'}, "
        f"on the molecule of RDKit's DetermineBonds ({version('rdkit')}); no bonds fail"
    )
    names = check_names(energy)
    for place, name in enumerate(names):
        faults = [
            answer if isinstance(answer, str) else (None if answer[place] else REASONS[name])
            for answer in answers
        ]
        verdicts.add_check(f"posebusters_{name}", Check.from_faults(faults, f"{name} of {source}"))
    verdicts.joint("posebusters", [f"posebusters_{name}" for name in names], f"all checks of {source}")
