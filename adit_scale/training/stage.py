"""What the trainer asks of a stage (stages.py has the two there are)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from adit_scale import randomness
from adit_scale.atoms import PackedBatch
from adit_scale.models.config import AutoencoderConfig, DenoiserConfig
from adit_scale.training.config import AutoencoderStageConfig, DiffusionStageConfig


@dataclass(frozen=True)
class StepTotals:
    """Of the global step: its number, and the sets and atoms of all ranks and micro-batches."""

    step: int
    n_sets: int
    n_atoms: int


# Quotients of sums: metric -> (numerator, denominator), each summed over batches, ranks and steps.
Sums = dict[str, tuple[Tensor, Tensor]]


class Stage(ABC):
    """What the trainer asks of a stage. ``module`` wraps the network that is trained."""

    name: str
    config: AutoencoderStageConfig | DiffusionStageConfig
    model_config: AutoencoderConfig | DenoiserConfig
    module: nn.Module
    autoencoder_digest: str = ""  # of the frozen weights that make this stage's latents

    @abstractmethod
    def prepare(self, batch: PackedBatch, totals: StepTotals) -> Any:
        """A micro-batch as ``loss`` takes it: a dataclass of tensors on the batch's device, without gradient.

        The same whenever it is made: every draw is addressed by set and visit.
        """

    @abstractmethod
    def loss(self, forward: Callable, prepared: Any, totals: StepTotals) -> tuple[Tensor, Sums]:
        """This micro-batch's part of the step's loss, and what to report of it."""

    @abstractmethod
    def validation_sums(self, module: nn.Module, batch: PackedBatch) -> Sums:
        """Sums over a held-out batch under the weights of ``module``."""

    @abstractmethod
    def validation_values(self, means: dict[str, float]) -> dict[str, float]:
        """What is journaled of the summed validation: one number called loss, and its parts."""

    @abstractmethod
    def flops(self, sizes: np.ndarray) -> tuple[float, float]:
        """(C, C_total) of a training step over sets of these atom counts (docs/method.md)."""

    def heaviest_step(self) -> int:
        """A step that computes no less than any other."""
        return 0

    def lr_multipliers(self) -> dict[str, float]:
        """Of the parameters of ``module`` by name; 1 for those that are not there."""
        return {}

    def exported(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Parameters of ``module`` under the names of the bare network."""
        return {name.removeprefix("network."): value for name, value in state.items()}


def keys_of(batch: PackedBatch, seed: int, purpose: str) -> Tensor:
    return randomness.set_keys(seed, purpose, batch.epoch_s, batch.repetition_s, batch.set_index_s)


def atom_normals(batch: PackedBatch, seed: int, purpose: str, n_features: int) -> Tensor:
    layout = batch.layout
    keys = keys_of(batch, seed, purpose)
    return randomness.normal_atoms(keys, layout.set_of_atom_t, layout.index_in_set_t, n_features)
