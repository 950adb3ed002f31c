"""Settings of a training run. No heavy imports: the command line reads this file."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import ClassVar

from adit_scale.errors import ConfigError, check_range

SCHEDULES = ("constant", "cosine", "wsd")
PRECISIONS = ("auto", "fp32", "bf16")


@dataclass
class OptimConfig:
    """AdamW. ``wsd`` is warm-up, stable, then linear decay over the last ``decay_fraction`` of the steps."""

    lr: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    gradient_clip: float = 10.0
    schedule: str = "constant"
    warmup_steps: int = 0
    decay_fraction: float = 0.3
    final_lr_fraction: float = 0.0
    ema_decay: float = 0.9999

    def validate(self, group: str) -> None:
        """``group``: the full name of these settings, for messages."""
        if self.schedule not in SCHEDULES:
            raise ConfigError(
                f"{group}.schedule is {self.schedule!r}; expected one of {', '.join(SCHEDULES)}"
            )
        for key in ("lr", "eps"):
            if not getattr(self, key) > 0:
                raise ConfigError(f"{group}.{key} is {getattr(self, key)}; expected more than 0")
        for key in ("beta1", "beta2", "ema_decay"):
            if not 0 <= getattr(self, key) < 1:
                raise ConfigError(f"{group}.{key} is {getattr(self, key)}; expected at least 0 and under 1")
        for key in ("decay_fraction", "final_lr_fraction"):
            check_range(f"{group}.{key}", getattr(self, key), 0, 1)
        for key in ("weight_decay", "warmup_steps", "gradient_clip"):
            check_range(f"{group}.{key}", getattr(self, key), 0)


@dataclass
class StageConfig:
    """What both stages share. A step takes sets until ``atom_budget`` real atoms are reached."""

    group: ClassVar[str]  # the stage's name among the settings, for messages

    steps: int = 1000
    atom_budget: int = 4096
    optim: OptimConfig = field(default_factory=OptimConfig)
    log_every_steps: int = 10
    validate_every_steps: int = 200
    validation_sets: int = 512
    checkpoint_every_steps: int = 200
    keep_checkpoints: int = 2
    max_skipped_in_a_row: int = 10

    def validate(self) -> None:
        self.optim.validate(f"{self.group}.optim")
        for key in ("steps", "atom_budget", "log_every_steps", "validate_every_steps", "validation_sets",
                    "checkpoint_every_steps", "keep_checkpoints", "max_skipped_in_a_row"):  # fmt: skip
            check_range(f"{self.group}.{key}", getattr(self, key), 1)


@dataclass
class LossWeights:
    """Weights of the autoencoder's loss terms (docs/method.md)."""

    atom_type: float = 1.0
    lengths: float = 1.0
    angles: float = 10.0
    fractional: float = 10.0
    positions: float = 10.0
    kl: float = 1e-5


@dataclass
class AutoencoderStageConfig(StageConfig):
    loss_weights: LossWeights = field(default_factory=LossWeights)
    mask_probability: float = 0.1
    noise_probability: float = 0.1
    noise_angstrom: float = 0.1

    group = "autoencoder"

    def validate(self) -> None:
        super().validate()
        for name, weight in asdict(self.loss_weights).items():
            check_range(f"autoencoder.loss_weights.{name}", weight, 0)
        for key in ("mask_probability", "noise_probability"):
            check_range(f"autoencoder.{key}", getattr(self, key), 0, 1)
        check_range("autoencoder.noise_angstrom", self.noise_angstrom, 0)


@dataclass
class DiffusionStageConfig(StageConfig):
    """``samples_every_steps``: draw and score a few samples for validity curves; 0 turns it off."""

    label_dropout: float = 0.1
    self_conditioning: float = 0.5
    samples_every_steps: int = 0
    samples_per_domain: int = 64
    sample_steps: int = 25

    group = "diffusion"

    def validate(self) -> None:
        super().validate()
        for key in ("label_dropout", "self_conditioning"):
            check_range(f"diffusion.{key}", getattr(self, key), 0, 1)
        check_range("diffusion.samples_every_steps", self.samples_every_steps, 0)
        check_range("diffusion.samples_per_domain", self.samples_per_domain, 1)
        check_range("diffusion.sample_steps", self.sample_steps, 2)


@dataclass
class ParallelConfig:
    """How a run is spread over processes: no setting here changes which numbers are computed.

    precision: of matrix products, and so the rounding of everything behind them;
        ``auto`` takes bf16 where the device multiplies it faster, else fp32.
    micro_batch_atoms: capacity of a micro-batch on one device.
    threads: CPU threads a process; 0 divides the machine's cores among the processes.
    """

    world_size: int = 1
    zero_stage: int = 1
    precision: str = "fp32"
    micro_batch_atoms: int = 4096
    threads: int = 0
    device: str = "auto"

    def validate(self) -> None:
        if self.zero_stage not in (0, 1, 2, 3):
            raise ConfigError(f"parallel.zero_stage is {self.zero_stage}; expected 0, 1, 2 or 3")
        if self.precision not in PRECISIONS:
            raise ConfigError(
                f"parallel.precision is {self.precision!r}; expected one of {', '.join(PRECISIONS)}"
            )
        if self.precision == "bf16" and self.zero_stage == 0:
            raise ConfigError(
                "parallel.precision=bf16 with parallel.zero_stage=0 keeps no fp32 master weights; "
                "set parallel.zero_stage=1"
            )
        for key, low in (("world_size", 1), ("micro_batch_atoms", 1), ("threads", 0)):
            check_range(f"parallel.{key}", getattr(self, key), low)
        if self.device not in ("auto", "cpu", "cuda"):
            raise ConfigError(f"parallel.device is {self.device!r}; expected auto, cpu or cuda")
