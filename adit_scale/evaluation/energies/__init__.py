"""Energies: relaxation, energy above hull, DFT in and out. Every number carries its model and its hull.

Energies are in eV/atom (molecules: kcal/mol per atom), lengths in angstrom. ASE and the energy models are
optional packages: they are imported where they are used.
"""
