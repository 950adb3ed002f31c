"""Bonds from distances: the table of the EDM protocol (Hoogeboom et al. 2022, arXiv 2203.17003, appendix).

Two atoms are bonded when they are nearer than the typical single bond of their elements plus 10 pm; the
bond is double below the double bond's length plus 5 pm, and triple below the triple bond's plus 3 pm.
There are no aromatic bonds and no charges. A pair of elements the table lacks makes no bond.
The numbers are package data under the MIT licence (``edm_bond_lengths.LICENSE``).
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from importlib import resources

import numpy as np
from rdkit import Chem

from adit_scale.atoms import MAX_ATOMIC_NUMBER

TABLE_FILE = "edm_bond_lengths.json"
ORDERS = ("single", "double", "triple")
MAX_VALENCE = 8  # above every valence of the table; larger sums of bond orders are counted here


@dataclass(frozen=True)
class BondTable:
    """thresholds_pm: ``(3, 100, 100)``, a pair of elements is bonded (single, double, triple) below it;
    −inf where the table has no such bond. allowed: ``(100, 9)`` bool, [element, sum of bond orders].
    known: ``(100,)`` bool, elements the protocol covers."""

    thresholds_pm: np.ndarray
    allowed: np.ndarray
    known: np.ndarray


@functools.cache
def edm_table() -> BondTable:
    """The packaged table, by atomic number."""
    text = resources.files("adit_scale.evaluation").joinpath(TABLE_FILE).read_text(encoding="utf-8")
    raw = json.loads(text)
    n = MAX_ATOMIC_NUMBER + 1
    atomic_number = Chem.GetPeriodicTable().GetAtomicNumber
    thresholds = np.full((len(ORDERS), n, n), -np.inf)
    known = np.zeros(n, dtype=bool)
    for order, name in enumerate(ORDERS):
        for symbol, partners in raw[name].items():
            for partner, length in partners.items():
                a, b = atomic_number(symbol), atomic_number(partner)
                # C=S is listed from carbon only; the protocol looks a pair up lighter element first.
                thresholds[order, [a, b], [b, a]] = length + raw["margins_pm"][name]
                known[[a, b]] = True
    allowed = np.zeros((n, MAX_VALENCE + 1), dtype=bool)
    for symbol, valences in raw["allowed_valences"].items():
        allowed[atomic_number(symbol), valences] = True
        known[atomic_number(symbol)] = True
    return BondTable(thresholds, allowed, known)


def bond_orders(numbers: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Bond orders ``(n, n)`` int, symmetric, 0 to 3, of atoms at ``positions (n, 3)`` in angstrom."""
    limits = edm_table().thresholds_pm[:, numbers[:, None], numbers[None, :]]
    distance_pm = 100.0 * np.linalg.norm(positions[:, None] - positions[None, :], axis=-1)
    single, double, triple = distance_pm < limits
    # Each order is asked for only below the one before it, as in the protocol.
    orders = single.astype(np.int64) + (single & double) + (single & double & triple)
    np.fill_diagonal(orders, 0)
    return orders


def stable_atoms(numbers: np.ndarray, orders: np.ndarray) -> np.ndarray:
    """``(n,)`` bool: the bond orders of the atom sum to a valence the protocol allows its element."""
    valence = np.minimum(orders.sum(axis=1), MAX_VALENCE)
    return edm_table().allowed[numbers, valence]
