"""Settings of the data path. No heavy imports: the command line reads this file."""

from __future__ import annotations

from dataclasses import dataclass, field

from adit_scale.errors import ConfigError, check_range


@dataclass
class DataConfig:
    """Which structures, how they are split, how often each data set is seen.

    shards: folder of shards with a manifest.json. With ``sources`` it is built there when missing; empty then
        means shards/<name>-<id of the files' contents and of how they are converted>.
    sources: raw files (extended xyz, CDVAE csv; .gz allowed). Empty: the shards must exist already.
    repeat: visits an epoch by data set name; 1 where a name is missing.
    max_atoms: larger structures are rejected at conversion, with a line in rejected.jsonl; 0 keeps all.
    """

    name: str = "demo"
    shards: str = "shards/demo"
    sources: list[str] = field(default_factory=list)
    repeat: dict[str, float] = field(default_factory=dict)
    validation_fraction: float = 0.05
    test_fraction: float = 0.05
    split_salt: str = "adit"
    block_sets: int = 1024
    blocks_per_shard: int = 16
    max_atoms: int = 0

    def validate(self) -> None:
        for key in ("validation_fraction", "test_fraction"):
            value = getattr(self, key)
            if not 0 <= value < 0.5:
                raise ConfigError(f"data.{key} is {value}; expected at least 0 and under 0.5")
        for name, r in self.repeat.items():
            if not 0 <= r <= 1e6:
                raise ConfigError(f"data.repeat.{name} is {r}; expected 0 to 1e6 visits an epoch")
        for key, low in (("block_sets", 1), ("blocks_per_shard", 1), ("max_atoms", 0)):
            check_range(f"data.{key}", getattr(self, key), low)
        if not self.name or "/" in self.name:
            raise ConfigError(f"data.name is {self.name!r}; expected part of a folder's name, without /")
