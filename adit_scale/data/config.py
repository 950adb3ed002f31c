"""Settings of the data path. No heavy imports: the command line reads this file."""

from __future__ import annotations

from dataclasses import dataclass, field

from adit_scale.errors import ConfigError, check_range

SPLITS = ("train", "val", "test")
SPLIT_BY = ("id", "composition")
SPACEGROUPS = ("auto", "stated", "found")
# As manifests and atoms.py number them; 0 is both.
DOMAINS = {"": 0, "crystal": 1, "molecule": 2}
DOMAIN_MATCHES = ("flops", "samples")


def domain_name(code: int) -> str:
    return next(name for name, known in DOMAINS.items() if known == code)


@dataclass
class DataConfig:
    """Which structures, how they are split, how often each data set is seen.

    shards: folder of shards with a manifest.json, or the address of one (s3://…, https://…). With ``sources``
        it is built there when missing; empty then means shards/<name>-<id of the files' contents and of how
        they are converted>.
    sources: raw files or folders (docs/data.md lists the formats), each ``PATH``, ``NAME=PATH`` or
        ``NAME:SPLIT=PATH`` with SPLIT one of train, val, test. Empty: the shards must exist already.
    repeat: visits an epoch by data set name; 1 where a name is missing.
    domain: of the sets to train on, molecule or crystal; empty trains on both. Validation is of both always,
        and so is a study's autoencoder.
    domain_match: what a run on one domain has in common with a joint one of as many steps: ``flops`` fills
        its steps with the domain's sets; ``samples`` takes the joint run's steps without the other domain's
        sets, so that it sees the same sets of its own in the same steps.
    split_by: what decides the split of a set whose publisher gave none: ``id`` (conformers of one molecule
        stay together) or ``composition`` (so do isomers, enantiomers and copies in other data sets).
    split_lists: by split (train, val, test), a text file of ids, one a line, each alone or as
        ``NAME<tab>ID``; they come before fractions. Their contents are part of the data set's identity.
    max_atoms: larger structures are rejected at conversion, with a line in rejected.jsonl; 0 keeps all.
    conformers: of a molecule given in several conformers, the lowest in energy are kept, this many.
    remove_hydrogens: from molecules; crystals keep theirs.
    spacegroups: ``stated`` takes the source's, ``found`` spglib's, ``auto`` spglib's where none is stated.
    symprec_angstrom: spglib's tolerance.
    deduplicate: leave out structures that repeat an earlier one of the same data set.
    qm9_uncharacterized: keep the 3,054 molecules of QM9 whose geometry is not that of their formula.
    build_workers: processes that convert; 0 is one a core. The shards do not depend on it.
    workers: processes a rank that prepare batches; 0 is a thread. The batches do not depend on it.
    cache: folder for the blocks of remote shards; empty is ~/.cache/adit_scale. cache_gib bounds it.
    """

    name: str = "demo"
    shards: str = "shards/demo"
    sources: list[str] = field(default_factory=list)
    repeat: dict[str, float] = field(default_factory=dict)
    domain: str = ""
    domain_match: str = "flops"
    validation_fraction: float = 0.05
    test_fraction: float = 0.05
    split_salt: str = "adit"
    split_by: str = "id"
    split_lists: dict[str, str] = field(default_factory=dict)
    block_sets: int = 1024
    blocks_per_shard: int = 16
    max_atoms: int = 0
    conformers: int = 5
    remove_hydrogens: bool = False
    spacegroups: str = "auto"
    symprec_angstrom: float = 0.01
    deduplicate: bool = False
    qm9_uncharacterized: bool = False
    build_workers: int = 0
    workers: int = 0
    cache: str = ""
    cache_gib: float = 10.0

    def validate(self) -> None:
        for key in ("validation_fraction", "test_fraction"):
            value = getattr(self, key)
            if not 0 <= value < 0.5:
                raise ConfigError(f"data.{key} is {value}; expected at least 0 and under 0.5")
        for key, found, known in (
            ("domain", {self.domain}, tuple(DOMAINS)),
            ("domain_match", {self.domain_match}, DOMAIN_MATCHES),
            ("split_by", {self.split_by}, SPLIT_BY),
            ("spacegroups", {self.spacegroups}, SPACEGROUPS),
            ("split_lists", set(self.split_lists), SPLITS),
        ):
            if not found <= set(known):
                wrong = ", ".join(sorted(found - set(known)))
                raise ConfigError(f"data.{key} is {wrong}; expected {' or '.join(filter(None, known))}")
        for name, r in self.repeat.items():
            if not 0 <= r <= 1e6:
                raise ConfigError(f"data.repeat.{name} is {r}; expected 0 to 1e6 visits an epoch")
        for key, low in (
            ("block_sets", 1),
            ("blocks_per_shard", 1),
            ("max_atoms", 0),
            ("conformers", 1),
            ("symprec_angstrom", 1e-8),
            ("build_workers", 0),
            ("workers", 0),
            ("cache_gib", 0.01),
        ):
            check_range(f"data.{key}", getattr(self, key), low)
        if not self.name or "/" in self.name:
            raise ConfigError(f"data.name is {self.name!r}; expected part of a folder's name, without /")
