"""Radii of ions and metal atoms, angstrom: what the demo crystals' lattice parameters are made of.

Ions: R. D. Shannon, Acta Cryst. A32, 751 (1976), six-coordinate, high spin where there is a choice.
N, P, As, Sb as 3- ions: from the lattice parameters of the rock-salt lanthanum pnictides with Shannon's La.
Metals: half the nearest-neighbour distance (A. F. Wells, Structural Inorganic Chemistry), as usual for
twelve neighbours; for the elements that make no close-packed metal a value used for them in alloys.
"""

from __future__ import annotations

# Mostly elements of one common charge: with the many charges of Mn or Mo nearly every composition is
# neutral in some way, and a test of neutrality would tell little.
CATIONS: dict[int, dict[str, float]] = {
    1: {"Li": 0.76, "Na": 1.02, "K": 1.38, "Rb": 1.52, "Cs": 1.67, "Cu": 0.77, "Ag": 1.15},
    2: {
        "Be": 0.45, "Mg": 0.72, "Ca": 1.00, "Sr": 1.18, "Ba": 1.35, "Fe": 0.78, "Co": 0.745, "Ni": 0.69,
        "Zn": 0.74, "Cd": 0.95, "Pb": 1.19,
    },
    3: {
        "Al": 0.535, "Ga": 0.62, "In": 0.80, "Sc": 0.745, "Y": 0.90, "La": 1.032, "Fe": 0.645, "Bi": 1.03,
        "Ce": 1.01, "Nd": 0.983, "Gd": 0.938, "Er": 0.89, "Lu": 0.861,
    },
    4: {"Si": 0.40, "Ge": 0.53, "Sn": 0.69, "Ti": 0.605, "Zr": 0.72, "Hf": 0.71, "Ce": 0.87},
    5: {"Nb": 0.64, "Ta": 0.64},
}  # fmt: skip

ANIONS: dict[int, dict[str, float]] = {
    1: {"F": 1.33, "Cl": 1.81, "Br": 1.96, "I": 2.20},
    2: {"O": 1.40, "S": 1.84, "Se": 1.98, "Te": 2.21},
    3: {"N": 1.62, "P": 1.97, "As": 2.04, "Sb": 2.21},
}

# Pauling's correction of a bond length for other coordination numbers, (neighbours / 6)^(1/8).
BOND_FACTOR = {n: (n / 6) ** 0.125 for n in (2, 4, 6, 8)}
TWELVE_FOLD_CATION = 1.2  # about Shannon's XII/VI ratio of the large A cations of perovskites

METALS: dict[str, float] = {
    "Be": 1.12, "Mg": 1.60, "Ca": 1.97, "Al": 1.43, "Ga": 1.35, "In": 1.67, "Ge": 1.37, "Sn": 1.55,
    "Pb": 1.75, "Sb": 1.55, "Bi": 1.70, "Sc": 1.62, "Ti": 1.47, "V": 1.34, "Cr": 1.28, "Mn": 1.27,
    "Fe": 1.26, "Co": 1.25, "Ni": 1.24, "Cu": 1.28, "Zn": 1.34, "Y": 1.80, "Zr": 1.60, "Nb": 1.46,
    "Mo": 1.39, "Ru": 1.34, "Rh": 1.34, "Pd": 1.37, "Ag": 1.44, "Cd": 1.51, "La": 1.87, "Ce": 1.818,
    "Nd": 1.814, "Gd": 1.804, "Er": 1.761, "Lu": 1.738, "Hf": 1.59, "Ta": 1.46, "W": 1.39, "Ir": 1.355,
    "Pt": 1.385, "Au": 1.44,
}  # fmt: skip

# Elements that crystallise as fcc, bcc and hcp, and single bond lengths of those with the diamond structure.
FACE_CENTRED_METALS = ("Al", "Ca", "Ni", "Cu", "Rh", "Pd", "Ag", "Ce", "Ir", "Pt", "Au", "Pb")
BODY_CENTRED_METALS = ("V", "Cr", "Fe", "Nb", "Mo", "Ta", "W")
HEXAGONAL_METALS = ("Be", "Mg", "Sc", "Ti", "Co", "Zn", "Y", "Zr", "Ru", "Cd", "Gd", "Er", "Lu", "Hf")
DIAMOND_BONDS = {"C": 1.545, "Si": 2.352, "Ge": 2.450, "Sn": 2.810}
