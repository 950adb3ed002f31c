"""What samples are compared with for novelty: the training set, as EDM SMILES and as crystals.

SMILES of a large training set take minutes, so they are kept in a text file under the data's fingerprint and
the protocol's versions; the first process that needs them makes them, others wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from adit_scale.atoms import CRYSTAL, MOLECULE, AtomSet
from adit_scale.evaluation.config import EvaluationConfig
from adit_scale.evaluation.kept import identity_of, locked, replace_text, samples_identity
from adit_scale.evaluation.score import package_versions

_MADE_BY = ("adit-scale", "rdkit")  # whose versions decide the SMILES


@dataclass(frozen=True)
class References:
    """molecules: EDM SMILES of the training molecules; None: novelty is not asked. crystals: the training
    crystals; None alike."""

    molecules: frozenset[str] | None = None
    crystals: Sequence[AtomSet] | None = None


Chunks = Callable[[int], Iterable[Sequence[AtomSet]]]


def load_references(
    read: Chunks,
    domains: Sequence[int],
    config: EvaluationConfig,
    cache: Path | None,
    fingerprint: str = "",
) -> References:
    """The training sets of the domains that are asked for.

    read: the training structures of a domain, a bounded number at a time. fingerprint: what identifies them
    without reading them; empty: their own values do. cache: folder for the SMILES; None makes them anew. A
    domain without training structures has no references: nothing can be said of novelty.
    """
    if not config.novelty:
        return References()
    molecules: frozenset[str] | None = None
    crystals: Sequence[AtomSet] | None = None
    if MOLECULE in domains and "edm" in config.protocols:
        molecules = _kept_smiles(read, config, cache, fingerprint) or None
    if CRYSTAL in domains:
        crystals = [crystal for chunk in read(CRYSTAL) for crystal in chunk] or None
    return References(molecules, crystals)


def _kept_smiles(
    read: Chunks, config: EvaluationConfig, cache: Path | None, fingerprint: str
) -> frozenset[str]:
    if cache is None:
        return frozenset(_smiles(read, config))
    digests = [fingerprint] if fingerprint else [samples_identity(chunk) for chunk in read(MOLECULE)]
    versions = {name: version for name, version in package_versions().items() if name in _MADE_BY}
    key = identity_of({"data": digests, "versions": versions})
    path = cache / f"edm_smiles-{key[:16]}.txt"
    with locked(cache / f".{path.stem}.lock"):
        if not path.is_file():
            replace_text(path, "".join(f"{smiles}\n" for smiles in sorted(_smiles(read, config))))
        return frozenset(path.read_text(encoding="utf-8").split())


def _smiles(read: Chunks, config: EvaluationConfig) -> set[str]:
    from adit_scale.evaluation.molecules import edm_smiles_of  # heavy

    found: set[str] = set()
    for chunk in read(MOLECULE):
        found.update(edm_smiles_of(chunk, config.worker_processes()))
    return found
