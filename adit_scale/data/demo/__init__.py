"""The demo corpus: about 2,000 small molecules and 2,000 crystals, made by the project's own code.

Small enough to commit and to train on in minutes, yet with what the metrics look at: clean bonds, balanced
charges, some sixty elements, 32 prototypes. Nothing is copied from a database, so the licence is ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from adit_scale.atoms import AtomSet
from adit_scale.data.build import Progress, build_from_sets
from adit_scale.data.config import DataConfig
from adit_scale.data.demo import crystals, molecules
from adit_scale.data.manifest import Manifest

N_MOLECULES = N_CRYSTALS = 2000
GENERATOR_VERSION = "2"  # raise it when a rebuild gives other structures

# Blocks smaller than the default, so that even this corpus has several of them to shuffle, over two shards.
CONFIG = DataConfig(block_sets=256, blocks_per_shard=8)

SOURCES_META = {
    molecules.DATASET: {
        "source": "enumerated graphs, RDKit ETKDGv3 and MMFF94: python -m adit_scale.data.demo",
        "licence": "Apache-2.0",
        "generator_version": GENERATOR_VERSION,
    },
    crystals.DATASET: {
        "source": "textbook prototypes with tabulated radii: python -m adit_scale.data.demo",
        "licence": "Apache-2.0",
        "generator_version": GENERATOR_VERSION,
    },
}


def generate(n_molecules: int = N_MOLECULES, n_crystals: int = N_CRYSTALS) -> Iterator[AtomSet]:
    """The structures of the corpus, molecules first; the same on every machine of one kind."""
    yield from molecules.generate_molecules(n_molecules)
    yield from crystals.generate_crystals(n_crystals)


def build_demo(out: Path, progress: Progress | None = None, overwrite: bool = False) -> Manifest:
    """Write the corpus as shards. Raises DataError when ``out`` is in use and not to be overwritten."""
    return build_from_sets(generate(), out, CONFIG, SOURCES_META, progress, overwrite)
