"""Files of molecules in each published form, made from the forms' descriptions."""

from __future__ import annotations

import io
import tarfile
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from rdkit import Chem

SALT = '2\nLattice="4 0 0 4 4 0 0 0 5" Properties=species:S:1:pos:R:3 id=c\nNa 0 0 0\nCl 2 2 2.5\n'
PLAIN = "3\nwater, E=-76.4 {not keys\nO 0.0 0.0 0.1\nH 0.0 0.8 -0.5 0.3\nH 0.0 -0.8 -0.5\n"
BY_NUMBER = (
    '2\nProperties=Z:I:1:pos:R:3:charge:R:1 id="a b" note=\'x y\' pbc="F F F"\n6 0.1 0.2 0.3 0\n8 1 1 1 0.5\n'
)
METHANE = np.array([6, 1, 1, 1, 1]), np.array(
    [[-0.0127, 1.0858, 0.008], [0.0022, -0.006, 0.002], [1.0117, 1.4638, 3e-4], [-0.5408, 1.4475, -0.8766],
     [-0.5238, 1.4379, 0.9064]]
)  # fmt: skip


def xyz_frame(numbers: np.ndarray, positions: np.ndarray, comment: str) -> str:
    rows = (
        f"{chemical_symbols[z]:2} {x:15.8f} {y:15.8f} {w:15.8f}\n"
        for z, (x, y, w) in zip(numbers, positions, strict=True)
    )
    return f"{len(numbers)}\n{comment}\n{''.join(rows)}"


def qm9_file(numbers: np.ndarray, positions: np.ndarray, index: int) -> bytes:
    """As the data set's description says, with the exponents of its writer."""

    def number(x: float) -> str:
        return f"{x:.10f}" if abs(x) > 1e-2 else f"{x:.6e}".replace("e", "*^")

    rows = [
        "\t".join([chemical_symbols[z], *map(number, position), "-0.535689"])
        for z, position in zip(numbers, positions, strict=True)
    ]
    n_frequencies = max(1, 3 * len(numbers) - 6)
    lines = [
        str(len(numbers)),
        "\t".join([f"gdb {index}", *["157.7118"] * 15, ""]),
        *rows,
        "\t".join(["1341.307"] * n_frequencies),
        "CCO\tCCO\t",
        "InChI=1S/CH4/h1H4\tInChI=1S/CH4/h1H4",
    ]
    return ("\n".join(lines) + "\n").encode()


def tar_of(files: dict[str, bytes], form: int = tarfile.GNU_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def molblock(numbers: np.ndarray, positions: np.ndarray, v3000: bool) -> str:
    mol = Chem.RWMol()
    conformer = Chem.Conformer(len(numbers))
    for i, (z, position) in enumerate(zip(numbers, positions, strict=True)):
        mol.AddAtom(Chem.Atom(int(z)))
        conformer.SetAtomPosition(i, [float(x) for x in position])
    for i in range(1, len(numbers)):
        mol.AddBond(i - 1, i, Chem.BondType.SINGLE)
    mol.AddConformer(conformer)
    return Chem.MolToMolBlock(mol, kekulize=False, forceV3000=v3000)


def geom_value(numbers: np.ndarray, positions: np.ndarray, energies: list[float]) -> dict[str, Any]:
    conformers = [
        {
            "geom_id": i,
            "totalenergy": energy,
            "relativeenergy": 0.1 * i,
            "boltzmannweight": 0.5,
            "xyz": [[float(z), *map(float, p + i)] for z, p in zip(numbers, positions, strict=True)],
        }
        for i, energy in enumerate(energies)
    ]
    return {"uniqueconfs": len(conformers), "conformers": conformers}
