"""What a run computes with, decided once at its start: device, precision, backends, micro-batch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from adit_scale.config import StudyConfig
from adit_scale.models.attention import resolve_attention, set_attention
from adit_scale.models.config import AutoencoderConfig, DenoiserConfig
from adit_scale.models.kernels import resolve_kernels, set_kernels
from adit_scale.models.precision import DTYPES
from adit_scale.models.products import use_onednn
from adit_scale.models.transformer import trunk_dtype
from adit_scale.training.config import ParallelConfig
from adit_scale.training.mfu import device_name
from adit_scale.training.micro_batch import MicroBatch, choose
from adit_scale.training.out_of_memory import Sizes
from adit_scale.training.peaks import DEVICE_TAG
from adit_scale.training.stage import Stage
from adit_scale.training.stages import DiffusionStage

# Settings of ``parallel`` that change a run's speed and rounding; a resumed run says which have changed.
RUN_WITH = ("attention", "kernels", "compile", "micro_batch_atoms")


@dataclass(frozen=True)
class Setup:
    """parallel: with nothing left to be decided. encoder: precision of the frozen one, "" where none runs."""

    device: str
    parallel: ParallelConfig
    micro_batch: MicroBatch
    encoder: str = ""

    @property
    def line(self) -> str:
        """``device NVIDIA H200, bf16, attention flash, kernels triton, compile on, micro-batch 32,768 atoms x
        2``"""
        parallel, micro = self.parallel, self.micro_batch
        words = [
            f"device {self.device}",
            parallel.precision,
            f"attention {parallel.attention}{self._why_slow}",
            f"kernels {parallel.kernels}",
            f"compile {'on' if parallel.compile else 'off'}",
            f"micro-batch {micro.atoms:,} atoms x {micro.rounds}",
        ]
        if self.encoder == "fp32" and self.device != "CPU":
            words.append("encoder fp32 (diffusion.encoder_precision=bf16 is faster)")
        return ", ".join(words)

    @property
    def _why_slow(self) -> str:
        if self.device == "CPU" or self.parallel.attention != "grouped":
            return ""
        faster = "parallel.precision=bf16 is" if self.parallel.precision == "fp32" else "flash would be"
        return f" ({faster} faster)"

    @property
    def tags(self) -> dict[str, str]:
        """What a run began with, for the journal and its mirrors."""
        parallel, micro = self.parallel, self.micro_batch
        tags = {
            DEVICE_TAG: self.device,
            "adit.precision": parallel.precision,
            "adit.attention": parallel.attention,
            "adit.kernels": parallel.kernels,
            "adit.compile": "on" if parallel.compile else "off",
            "adit.micro_batch": f"{micro.atoms} x {micro.rounds}",
        }
        return tags | ({"adit.encoder": self.encoder} if self.encoder else {})


def decide(
    folder: Path, config: StudyConfig, stage: Stage, sizes: Sizes, device: torch.device
) -> tuple[StudyConfig, Setup]:
    """All that ``parallel`` leaves open, decided for the run in ``folder``. A collective call.

    config: with a definite precision. Raises ConfigError for what the device or the network cannot do.
    """
    config = replace(config, parallel=choose_backends(config.parallel, stage, device))
    micro_batch = choose(folder, config, stage, sizes, device)
    parallel = replace(config.parallel, micro_batch_atoms=micro_batch.atoms)
    encodes = isinstance(stage, DiffusionStage) and not stage.config.latent_cache
    encoder = config.diffusion.encoder_precision if encodes else ""
    return replace(config, parallel=parallel), Setup(device_name(device), parallel, micro_batch, encoder)


def choose_backends(parallel: ParallelConfig, stage: Stage, device: torch.device) -> ParallelConfig:
    """``parallel`` with attention and kernels made definite, and every module of the stage set to them."""
    dtype = DTYPES[parallel.precision]
    attention = resolve_attention(parallel.attention, device, dtype, head_width(stage.model_config))
    kernels = resolve_kernels(parallel.kernels, device)
    set_attention(stage.module, attention)
    set_kernels(stage.module, kernels)
    if not parallel.compile:  # the compiler chooses products itself
        use_onednn(stage.module, dtype, device, trained=True)
    if isinstance(stage, DiffusionStage):
        for encoder in (stage.autoencoder, stage.encoder):
            use_fitting_attention(encoder, stage.autoencoder.config, device)
            if not parallel.compile:
                use_onednn(encoder, trunk_dtype(encoder), device, trained=False)
    return replace(parallel, attention=attention, kernels=kernels)


def use_fitting_attention(
    module: nn.Module, shape: AutoencoderConfig | DenoiserConfig, device: torch.device
) -> None:
    """The fastest attention for the precision that ``module`` has, whatever was asked for the training."""
    dtype = next(module.parameters()).dtype
    set_attention(module, resolve_attention("auto", device, dtype, head_width(shape)))


def head_width(shape: AutoencoderConfig | DenoiserConfig) -> int:
    return shape.width // shape.heads
