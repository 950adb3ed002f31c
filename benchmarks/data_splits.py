"""Splits made up for the benchmarks of order, reading and packing: sizes as in real data, no structures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from dense_denoiser import MP20_HISTOGRAM, QM9_HISTOGRAM

from adit_scale.atoms import CRYSTAL, MOLECULE
from adit_scale.data.manifest import SET_DTYPE, Block, SplitIndex

BLOCK_SETS = 1024
# Bytes on disk of an atom (number, position), a set (offset, cell, data set, spacegroup, id) and tar headers.
ATOM_BYTES, SET_BYTES, BLOCK_BYTES = 13, 68, 8192
MIXTURES = ("QM9+MP20", "GEOM-DRUGS")


def draw_rows(rng: np.random.Generator, mixture: str, n: int) -> np.ndarray:
    """Rows of n sets in random order.

    QM9+MP20: in the shares of the data sets, 133,885 molecules and 45,231 crystals. GEOM-DRUGS: a normal
    distribution of mean 44.4 and standard deviation 11, cut off at 10 and at the published largest, 181.
    """
    rows = np.empty(n, SET_DTYPE)
    if mixture == "GEOM-DRUGS":
        rows["n_atoms"] = np.clip(np.rint(rng.normal(44.4, 11, n)), 10, 181)
        rows["dataset"], rows["domain"] = 0, MOLECULE
        return rows
    crystal = rng.random(n) < 45_231 / (133_885 + 45_231)
    rows["n_atoms"] = np.where(crystal, _sizes(rng, MP20_HISTOGRAM, n), _sizes(rng, QM9_HISTOGRAM, n))
    rows["dataset"], rows["domain"] = crystal, np.where(crystal, CRYSTAL, MOLECULE)
    return rows


def write_split(folder: Path, mixture: str, n_sets: int) -> SplitIndex:
    """A split of so many sets. Its rows lie in a file as those of a real one do; there are no shards."""
    rng = np.random.default_rng(0)
    path = folder / "train.sets.npy"
    blocks: list[Block] = []
    at = 0
    with path.open("wb") as file:
        header = {"descr": SET_DTYPE.descr, "fortran_order": False, "shape": (n_sets,)}
        np.lib.format.write_array_header_1_0(file, header)
        for first in range(0, n_sets, BLOCK_SETS):
            chunk = draw_rows(rng, mixture, min(BLOCK_SETS, n_sets - first))
            file.write(chunk.tobytes())
            n_bytes = BLOCK_BYTES + SET_BYTES * len(chunk) + ATOM_BYTES * int(chunk["n_atoms"].sum())
            key = f"{len(blocks):06d}"
            blocks.append(Block("train-000000.tar", key, at, at + n_bytes, "", first, len(chunk)))
            at += n_bytes
    return SplitIndex("train", blocks, path)


def _sizes(rng: np.random.Generator, histogram: list[int], n: int) -> np.ndarray:
    return rng.choice(np.arange(len(histogram)), size=n, p=np.array(histogram) / sum(histogram))
