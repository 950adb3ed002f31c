"""Settings of a training run. No heavy imports: the command line reads this file."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import ClassVar

from adit_scale.errors import ConfigError, check_range

SCHEDULES = ("constant", "cosine", "wsd", "decay")
BEST_RULE = r"validation/(\S+?)(?: (min|max))?"
# Gradients are exchanged so many at a time; DeepSpeed's own 5e8 would take up to 2 GB whatever the model.
BUCKET_ELEMENTS = 50_000_000
# In the folder weights/ of a run, and of a snapshot.
WEIGHTS_FILE, CONFIG_FILE = "weights.safetensors", "config.json"
PRECISIONS = ("auto", "fp32", "bf16")
ATTENTIONS = ("auto", "flash", "grouped")
KERNELS = ("auto", "torch", "triton")
MICRO_BATCHES = ("fixed", "auto")
MICRO_BATCH_ATOMS = 4096  # where parallel.micro_batch_atoms names none
# The trunk_digest of a study's decay branch: the trunk is an input, and not trained yet when this is written.
OF_TRUNK = "input"
PARAMETRIZATIONS = ("standard", "mup")


@dataclass
class OptimConfig:
    """AdamW. ``wsd`` is warm-up, stable, then linear decay over the last ``decay_fraction`` of the steps.

    ``decay`` is a branch of a run of constant rate (training/branches.py): linear from step ``decay_from``,
    where it left the trunk, to the end.

    parametrization: ``standard``, or ``mup``, under which the best ``lr`` of a denoiser of ``base_width`` is
        that of other widths too (models/mup.py). base_width, base_head_width: of the denoiser at which the
        two are the same.
    """

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
    decay_from: int = 0
    ema_decay: float = 0.9999
    parametrization: str = "standard"
    base_width: int = 64
    base_head_width: int = 64

    def validate(self, group: str) -> None:
        """``group``: the full name of these settings, for messages."""
        if self.parametrization not in PARAMETRIZATIONS:
            raise ConfigError(
                f"{group}.parametrization is {self.parametrization!r}; expected one of "
                f"{', '.join(PARAMETRIZATIONS)}"
            )
        for key in ("base_width", "base_head_width"):
            check_range(f"{group}.{key}", getattr(self, key), 1)
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
        for key in ("weight_decay", "warmup_steps", "gradient_clip", "decay_from"):
            check_range(f"{group}.{key}", getattr(self, key), 0)


@dataclass
class StageConfig:
    """What both stages share. A step takes sets until ``atom_budget`` real atoms are reached.

    max_skipped_in_a_row: more steps in a row than this with a non-finite loss or gradient end the run.
    spike_factor: an interval's loss this many (robust) standard deviations above the median of the intervals
        before it is reported; 0 turns that off.
    profile: steps to trace, as "10-12"; "" for none.
    checkpoint_async: write checkpoints behind the training steps.
    keep_checkpoints: the newest ones. keep_every_hours: besides, one every so many hours; 0 for none.
    keep_best: besides, the best by one validation metric, "validation/loss" or "validation/loss max"; "" for
        none. The one before a wsd decay is always kept.
    branch_steps: besides, checkpoints at these steps are made and kept, for decay branches to start from.
    trunk_digest: of the checkpoint a decay branch started from; filled in by training/branches.py.
    """

    group: ClassVar[str]  # the stage's name among the settings, for messages

    steps: int = 1000
    atom_budget: int = 4096
    optim: OptimConfig = field(default_factory=OptimConfig)
    log_every_steps: int = 10
    validate_every_steps: int = 200
    validation_sets: int = 512
    checkpoint_every_steps: int = 200
    checkpoint_async: bool = True
    keep_checkpoints: int = 2
    keep_every_hours: float = 0.0
    keep_best: str = ""
    branch_steps: list[int] = field(default_factory=list)
    trunk_digest: str = ""
    max_skipped_in_a_row: int = 10
    spike_factor: float = 10.0
    profile: str = ""

    def validate(self) -> None:
        self.optim.validate(f"{self.group}.optim")
        for key in ("steps", "atom_budget", "log_every_steps", "validate_every_steps", "validation_sets",
                    "checkpoint_every_steps", "keep_checkpoints", "max_skipped_in_a_row"):  # fmt: skip
            check_range(f"{self.group}.{key}", getattr(self, key), 1)
        check_range(f"{self.group}.spike_factor", self.spike_factor, 0)
        check_range(f"{self.group}.keep_every_hours", self.keep_every_hours, 0)
        self._validate_keep_best()
        self._validate_branches()
        if self.profile and profiled_steps(self.profile) is None:
            raise ConfigError(
                f"{self.group}.profile is {self.profile!r}; expected steps such as 10-12, or nothing"
            )

    def _validate_keep_best(self) -> None:
        if self.keep_best and not re.fullmatch(BEST_RULE, self.keep_best):
            raise ConfigError(
                f"{self.group}.keep_best is {self.keep_best!r}; expected a validation metric and min or max, "
                "such as 'validation/loss min'"
            )
        if self.keep_best and self.checkpoint_every_steps % self.validate_every_steps:
            raise ConfigError(
                f"{self.group}.keep_best needs a validation at every checkpoint; set checkpoint_every_steps "
                f"({self.checkpoint_every_steps}) to a multiple of validate_every_steps "
                f"({self.validate_every_steps})"
            )

    def _validate_branches(self) -> None:
        wrong = [step for step in self.branch_steps if not 1 <= step <= self.steps]
        if wrong:
            raise ConfigError(
                f"{self.group}.branch_steps has {wrong[0]}; expected steps from 1 to {self.steps}"
            )
        optim = self.optim
        if (optim.schedule == "decay") != bool(self.trunk_digest):
            raise ConfigError(
                f"{self.group}.optim.schedule is {optim.schedule!r} and {self.group}.trunk_digest is "
                f"{self.trunk_digest!r}; expected both of a decay branch or neither: begin one with "
                "`adit train resume=CHECKPOINT schedule=decay`"
            )
        if optim.schedule == "decay" and self.steps <= optim.decay_from:
            raise ConfigError(
                f"{self.group}.steps is {self.steps}; expected more than the {optim.decay_from} steps of the "
                "trunk that the branch starts from"
            )


def profiled_steps(text: str) -> tuple[int, int] | None:
    """First and last step of "10-12", "steps:10-12" or "10"; None where it is none of these."""
    found = re.fullmatch(r"(?:steps:)?(\d+)(?:-(\d+))?", text)
    if not found:
        return None
    first, last = int(found[1]), int(found[2] or found[1])
    return (first, last) if 1 <= first <= last else None


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
        if self.optim.parametrization != "standard":
            raise ConfigError(
                f"autoencoder.optim.parametrization is {self.optim.parametrization!r}; expected standard: "
                "one autoencoder serves all sizes (diffusion.optim.parametrization is that of the sizes)"
            )
        for name, weight in asdict(self.loss_weights).items():
            check_range(f"autoencoder.loss_weights.{name}", weight, 0)
        for key in ("mask_probability", "noise_probability"):
            check_range(f"autoencoder.{key}", getattr(self, key), 0, 1)
        check_range("autoencoder.noise_angstrom", self.noise_angstrom, 0)


@dataclass
class ScoringConfig:
    """The process beside the training that draws and scores the samples of validity curves.

    device: cpu, or cuda for the training's own (which then slows it down). threads: of that process, on
    processor time that the training leaves over.
    queue_gib: snapshots of the weights that wait on the disk may hold so much (one always may); samples that
        fall due while they do are skipped.
    limit_s: without a sign of life for so long, the process is killed and the curve lacks that point.
    wait_s: a finished run waits so long for the scores still to come.
    """

    device: str = "cpu"
    threads: int = 1
    queue_gib: float = 4.0
    limit_s: float = 1800.0
    wait_s: float = 900.0

    def validate(self, group: str) -> None:
        if self.device not in ("cpu", "cuda"):
            raise ConfigError(f"{group}.device is {self.device!r}; expected cpu or cuda")
        check_range(f"{group}.threads", self.threads, 1)
        for key in ("queue_gib", "wait_s"):
            check_range(f"{group}.{key}", getattr(self, key), 0)
        check_range(f"{group}.limit_s", self.limit_s, 1)


@dataclass
class DiffusionStageConfig(StageConfig):
    """``samples_every_steps``: draw and score a few samples for validity curves; 0 turns it off.

    scoring: how that is done beside the training.
    encoder_precision: of the frozen encoder when it makes latents for training (validation's are of fp32).
    latent_cache: encode so many augmentations of every training set once, beside the run, and train on these;
        0 encodes in every step. 4 bytes x 2 latent features x atoms of the data set each.
    """

    label_dropout: float = 0.1
    self_conditioning: float = 0.5
    encoder_precision: str = "fp32"
    latent_cache: int = 0
    samples_every_steps: int = 0
    samples_per_domain: int = 64
    sample_steps: int = 25
    scoring: ScoringConfig = field(default_factory=ScoringConfig)

    group = "diffusion"

    def validate(self) -> None:
        super().validate()
        for key in ("label_dropout", "self_conditioning"):
            check_range(f"diffusion.{key}", getattr(self, key), 0, 1)
        if self.encoder_precision not in ("fp32", "bf16"):
            raise ConfigError(
                f"diffusion.encoder_precision is {self.encoder_precision!r}; expected fp32 or bf16"
            )
        check_range("diffusion.latent_cache", self.latent_cache, 0, 64)
        check_range("diffusion.samples_every_steps", self.samples_every_steps, 0)
        check_range("diffusion.samples_per_domain", self.samples_per_domain, 1)
        check_range("diffusion.sample_steps", self.sample_steps, 2)
        self.scoring.validate("diffusion.scoring")


@dataclass
class ParallelConfig:
    """How a run is spread over processes: no setting here changes which numbers are computed.

    precision: of matrix products, and so the rounding of everything behind them;
        ``auto`` takes bf16 where the device multiplies it faster, else fp32.
    attention: ``flash`` is FlashAttention on packed sets, CUDA in bf16; ``grouped`` runs anywhere; ``auto``
        takes flash where it can run.
    kernels: of the blocks' modulation: ``torch``, or fused ``triton`` ones (CUDA); ``auto`` takes the faster.
    micro_batch: ``fixed``, or ``auto``: the largest one that fits is found before the first step
        (training/micro_batch.py), at most an equal share of the step.
    micro_batch_atoms: capacity of a micro-batch on one device; with ``micro_batch=auto`` its upper limit.
        0 is 4,096, and with auto as large as fits.
    activation_checkpointing: keep only the input of each block for the backward pass and compute the rest
        again: less memory for a third more work, the same numbers.
    compile: run the blocks compiled, on micro-batches of one fixed capacity (about 2% of it empty).
    threads: CPU threads a process; 0 divides the machine's cores among the processes.
    wall_time_s: a run asks itself to save and stop this long after its process started; 0 is no limit. Leave
        time for one more step and one save.
    hang_timeout_s: a rank in one phase (data, compute, exchange, save, ...) for longer than this counts as
        hung: all ranks write their stacks and leave; 0 turns that off.
    """

    world_size: int = 1
    zero_stage: int = 1
    precision: str = "fp32"
    attention: str = "auto"
    kernels: str = "auto"
    micro_batch: str = "fixed"
    micro_batch_atoms: int = 0
    activation_checkpointing: bool = False
    compile: bool = False
    threads: int = 0
    device: str = "auto"
    wall_time_s: float = 0.0
    hang_timeout_s: float = 1800.0

    @property
    def capacity_atoms(self) -> int:
        """The most atoms of a micro-batch, where the settings alone say it."""
        return self.micro_batch_atoms or MICRO_BATCH_ATOMS

    def validate(self) -> None:
        if self.zero_stage not in (0, 1, 2, 3):
            raise ConfigError(f"parallel.zero_stage is {self.zero_stage}; expected 0, 1, 2 or 3")
        for key, known in (("precision", PRECISIONS), ("attention", ATTENTIONS), ("kernels", KERNELS),
                           ("micro_batch", MICRO_BATCHES)):  # fmt: skip
            if getattr(self, key) not in known:
                raise ConfigError(
                    f"parallel.{key} is {getattr(self, key)!r}; expected one of {', '.join(known)}"
                )
        if self.precision == "bf16" and self.zero_stage == 0:
            raise ConfigError(
                "parallel.precision=bf16 with parallel.zero_stage=0 keeps no fp32 master weights; "
                "set parallel.zero_stage=1"
            )
        for key, low in (("world_size", 1), ("micro_batch_atoms", 0), ("threads", 0),
                         ("wall_time_s", 0), ("hang_timeout_s", 0)):  # fmt: skip
            check_range(f"parallel.{key}", getattr(self, key), low)
        if self.device not in ("auto", "cpu", "cuda"):
            raise ConfigError(f"parallel.device is {self.device!r}; expected auto, cpu or cuda")
