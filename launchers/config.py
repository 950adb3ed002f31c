"""Settings of launchers. No heavy imports."""

from __future__ import annotations

from dataclasses import dataclass, field

from adit_scale.errors import ConfigError


@dataclass
class LauncherConfig:
    """Where jobs run. ``parallel``: at most so many jobs at once under the local launcher."""

    kind: str = "local"
    parallel: int = 2
    partition: str = ""
    account: str = ""
    qos: str = ""
    time_min: int = 720
    gpus_per_node: int = 0
    cpus_per_task: int = 4
    mem_gib: int = 0
    setup: list[str] = field(default_factory=list)

    def validate(self) -> None:
        if self.kind not in ("local", "slurm"):
            raise ConfigError(f"launcher.kind is {self.kind!r}; expected local or slurm")
        if self.parallel < 1:
            raise ConfigError(f"launcher.parallel is {self.parallel}; expected at least 1")
