"""A small vasprun.xml, laid out as VASP 5.4 writes it, of a calculation that is made up."""

from __future__ import annotations

import numpy as np

from adit_scale.atoms import AtomSet

TITLES = {"Na": "PAW_PBE Na_pv 19Sep2006", "Cl": "PAW_PBE Cl 06Sep2000"}  # MPRelaxSet's


def _vectors(name: str, rows: np.ndarray) -> str:
    lines = "".join(f"   <v> {a:.8f} {b:.8f} {c:.8f} </v>\n" for a, b, c in rows)
    return f'  <varray name="{name}" >\n{lines}  </varray>\n'


def _structure(crystal: AtomSet, name: str = "") -> str:
    attribute = f' name="{name}"' if name else ""
    return (
        f" <structure{attribute} >\n <crystal>\n{_vectors('basis', crystal.cell)}"
        f'   <i name="volume"> {abs(np.linalg.det(crystal.cell)):.8f} </i>\n </crystal>\n'
        f"{_vectors('positions', crystal.fractional)} </structure>\n"
    )


def _energy(energy: float) -> str:
    names = ("e_fr_energy", "e_wo_entrp", "e_0_energy")
    return "<energy>\n" + "".join(f'   <i name="{n}"> {energy:.8f} </i>\n' for n in names) + "</energy>\n"


def _step(crystal: AtomSet, energy: float, electronic: int) -> str:
    inner = "".join(f"  <scstep>\n{_energy(energy)}  </scstep>\n" for _ in range(electronic))
    forces = _vectors("forces", np.zeros_like(crystal.positions))
    return (
        f" <calculation>\n{inner}{_structure(crystal)}{forces}"
        f"{_vectors('stress', np.zeros((3, 3)))}{_energy(energy)} </calculation>\n"
    )


def vasprun(
    steps: list[tuple[AtomSet, float]],
    symbols: list[str],
    titles: dict[str, str] = TITLES,
    electronic: int = 8,
    nelm: int = 100,
    nsw: int = 99,
) -> str:
    """steps: structure and energy (eV a cell) of each ionic step. symbols: of the atoms, alike ones together.
    electronic: steps of each ionic step; VASP stops at ``nelm`` and ``nsw`` where nothing converges."""
    kinds = list(dict.fromkeys(symbols))
    atoms = "".join(f"<rc><c>{s:2}</c><c>{kinds.index(s) + 1:4d}</c></rc>\n" for s in symbols)
    types = "".join(
        f"<rc><c>{symbols.count(k):4d}</c><c>{k:2}</c><c>  1.0</c><c> 1.0</c><c>  {titles[k]} </c></rc>\n"
        for k in kinds
    )
    head = f"""<?xml version="1.0" encoding="ISO-8859-1"?>
<modeling>
 <generator>
  <i name="program" type="string">vasp </i>
  <i name="version" type="string">5.4.4 </i>
  <i name="date" type="string">2020 01 01 </i>
  <i name="time" type="string">00:00:00 </i>
 </generator>
 <incar>
  <i type="string" name="PREC">accurate</i>
  <i name="ENCUT"> 520.00000000</i>
  <i type="int" name="NSW"> {nsw}</i>
  <i type="int" name="NELM"> {nelm}</i>
  <i type="int" name="ISIF"> 3</i>
 </incar>
 <kpoints>
  <generation param="Gamma">
   <v type="int" name="divisions"> 5 5 5 </v>
   <v name="usershift"> 0.0 0.0 0.0 </v>
  </generation>
  <varray name="kpointlist" >
   <v> 0.0 0.0 0.0 </v>
  </varray>
  <varray name="weights" >
   <v> 1.0 </v>
  </varray>
 </kpoints>
 <parameters>
  <separator name="electronic" >
   <i type="int" name="NELM"> {nelm}</i>
   <i type="logical" name="LHFCALC"> F  </i>
   <i name="AEXX"> 0.00000000</i>
   <i name="HFSCREEN"> 0.00000000</i>
   <i type="string" name="GGA">--</i>
   <i type="logical" name="LDAU"> F  </i>
  </separator>
  <separator name="ionic" >
   <i type="int" name="NSW"> {nsw}</i>
   <i type="int" name="IBRION"> 2</i>
   <i name="EDIFFG"> -0.02</i>
  </separator>
 </parameters>
 <atominfo>
  <atoms> {len(symbols)} </atoms>
  <types> {len(kinds)} </types>
  <array name="atoms" >
   <dimension dim="1">ion</dimension>
   <field type="string">element</field>
   <field type="int">atomtype</field>
   <set>
{atoms}   </set>
  </array>
  <array name="atomtypes" >
   <dimension dim="1">type</dimension>
   <field type="int">atomspertype</field>
   <field type="string">element</field>
   <field>mass</field>
   <field>valence</field>
   <field type="string">pseudopotential</field>
   <set>
{types}   </set>
  </array>
 </atominfo>
"""
    first, last = steps[0][0], steps[-1][0]
    body = "".join(_step(crystal, energy, electronic) for crystal, energy in steps)
    tail = f"{_structure(last, 'finalpos')}</modeling>\n"
    return head + _structure(first, "initialpos") + body + tail
