"""Samples and verdicts for the tests of pictures: textbook structures, broken samples, hostile texts."""

from __future__ import annotations

import numpy as np
from hand_made import crystal, molecule

from adit_scale.atoms import CRYSTAL, MOLECULE, AtomSet
from adit_scale.evaluation.decode import NON_FINITE_COORDINATES, OPEN_ANGLES, Invalid
from adit_scale.evaluation.verdicts import NOT_ASKED, Check, Verdicts

HOSTILE = "</script><script>document.title='taken'</script><img src=x onerror=alert(1)>"
FCC = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])


def rock_salt() -> AtomSet:
    return crystal([11] * 4 + [17] * 4, np.vstack([FCC, (FCC + 0.5) % 1]), np.eye(3) * 5.64)


def diamond() -> AtomSet:
    return crystal([6] * 8, np.vstack([FCC, FCC + 0.25]), np.eye(3) * 3.567)


def magnesium() -> AtomSet:
    """Hexagonal close packing, the primitive cell."""
    cell = [[3.21, 0, 0], [-1.605, 3.21 * 3**0.5 / 2, 0], [0, 0, 5.21]]
    return crystal([12, 12], [[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]], cell)


def perovskite() -> AtomSet:
    """SrTiO3."""
    oxygen = [[0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    return crystal([38, 22, 8, 8, 8], [[0, 0, 0], [0.5, 0.5, 0.5], *oxygen], np.eye(3) * 3.905)


def hydrogen_cyanide() -> AtomSet:
    return molecule([1, 6, 7], [[-1.065, 0, 0], [0, 0, 0], [1.156, 0, 0]])


def water(stretched: float = 1.0) -> AtomSet:
    return molecule([8, 1, 1], stretched * np.array([[0, 0, 0.117], [0, 0.757, -0.467], [0, -0.757, -0.467]]))


def broken(domain: int) -> list[AtomSet | Invalid]:
    """What a network may give that is no system, or one that no picture can hold."""
    if domain == MOLECULE:
        far = molecule([6, 6], [[0, 0, 0], [0, 0, 1e12]])
        lost = molecule([6, 6], [[0, 0, 0], [0, 0, np.nan]])
        empty = molecule(np.zeros(0, dtype=int), np.zeros((0, 3)))
        same = molecule([6, 6, 6], np.zeros((3, 3)))
        return [Invalid(MOLECULE, NON_FINITE_COORDINATES, np.array([6, 0])), far, lost, empty, same]
    flat = AtomSet(np.array([11]), np.zeros((1, 3)), np.array([[4.0, 0, 0], [8, 0, 0], [0, 0, 4]]), True, "x")
    return [Invalid(CRYSTAL, OPEN_ANGLES, np.array([11, 17])), flat]


def scored(domain: int, samples: list, ids: list[str] | None = None) -> Verdicts:
    """Verdicts with every kind of column: broken samples fail, the last one is not asked for its energy."""
    n = len(samples)
    verdicts = Verdicts(domain, ids or [str(i) for i in range(n)], np.array([len(s) for s in samples]))
    faults = [s.reason if isinstance(s, Invalid) else None for s in samples]
    if domain == MOLECULE:
        verdicts.add_check("edm_valid", Check.from_faults(faults, "distance table"))
        verdicts.add_label("edm_smiles", ["" if fault else "C" for fault in faults])
        return verdicts
    verdicts.add_check("structural", Check.from_faults(faults))
    verdicts.joint("valid", ["structural"])
    asked = np.array([*[0] * (n - 1), NOT_ASKED], dtype=np.int8)
    verdicts.add_check("stable", Check(asked, [*["too high"] * (n - 1), ""]))
    verdicts.add_value("spacegroup_0.1", [1.0 if i % 2 else 225.0 for i in range(n)])
    verdicts.add_value("n_elements", [float(len(set(s.numbers.tolist()))) for s in samples])
    verdicts.add_value("density_g_cm3", np.linspace(2, 8, n))
    verdicts.add_value("e_above_hull_ev_per_atom", [*np.linspace(0, 0.4, n - 1), np.nan])
    verdicts.add_label("formula", ["NaCl" if i % 2 else "C8" for i in range(n)])
    return verdicts
