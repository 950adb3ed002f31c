"""Samples of a trained pair of networks: what is asked of each, drawn by any number of processes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adit_scale import __version__
from adit_scale.atoms import CRYSTAL, DOMAIN_NAMES, MOLECULE, AtomSet
from adit_scale.data.config import DataConfig
from adit_scale.data.formats import extended_xyz
from adit_scale.data.loader import size_histogram
from adit_scale.data.manifest import open_manifest
from adit_scale.diffusion.conditions import check_spacegroups
from adit_scale.diffusion.config import SamplingConfig
from adit_scale.diffusion.generate import (
    BatchPlan,
    for_device,
    plan_batches,
    sizes_asked,
    spacegroups_asked,
)
from adit_scale.diffusion.inference import why_no_graphs
from adit_scale.errors import ConfigError
from adit_scale.evaluation.draw import Samples, draw_into, draw_samples
from adit_scale.evaluation.samples import SampleFolder, write_synced
from adit_scale.jobs.sample_model import SampleModel, TrainingData

__all__ = ["Samples", "draw_samples", "sample_sizes", "write_samples"]


def sample_sizes(data: DataConfig, sampling: SamplingConfig) -> dict[int, np.ndarray]:
    """Atom counts of the samples of each domain, drawn from the training data. Raises DataError."""
    manifest = open_manifest(data)
    counts = {CRYSTAL: sampling.crystals, MOLECULE: sampling.molecules}
    return {
        domain: sizes_asked(sampling, size_histogram(manifest, domain), n, domain)
        for domain, n in counts.items()
        if n
    }


def write_samples(samples: Samples, folder: Path) -> list[Path]:
    """One extended xyz file a domain. Samples that are no system of atoms are left out, their ids missing."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for domain, sets in samples.items():
        path = folder / f"{DOMAIN_NAMES[domain]}s.extxyz"
        write_synced(path, "".join(extended_xyz(s) for s in sets if isinstance(s, AtomSet)).encode())
        paths.append(path)
    return paths


@dataclass(frozen=True)
class Order:
    """An order for samples, made definite: networks, device, and what is asked of each sample.

    sizes: by domain, ``(n,)`` atom counts. spacegroups: by domain, ``(n,)`` labels, or None.
    """

    model: SampleModel
    sampling: SamplingConfig
    sizes: Mapping[int, np.ndarray]
    spacegroups: Mapping[int, np.ndarray | None]
    device: torch.device

    @cached_property
    def plans(self) -> list[BatchPlan]:
        """All batches; a part of the folder each."""
        return plan_batches(self.sizes, self.sampling, self.spacegroups)

    @property
    def parameters(self) -> int:
        """Of both networks."""
        networks = self.model.denoiser, self.model.autoencoder
        return sum(p.numel() for network in networks for p in network.parameters())

    def folder(self, path: Path, start_over: bool = False) -> SampleFolder:
        """Begin or take up again the folder of these samples. Raises ConfigError where it holds others, or
        with ``start_over`` throws those away.
        """
        settings = asdict(self.sampling)
        counts = {DOMAIN_NAMES[domain]: len(sizes) for domain, sizes in self.sizes.items()}
        for own in ("crystals", "molecules", "cuda_graphs", "compile"):
            settings.pop(own)
        record = {
            "samples": counts,
            "settings": settings,
            "weights": dict(self.model.digests),
            "device": self.device.type,
            "sizes_sha256": _digests(self.sizes),
            "spacegroups_sha256": _digests(self.spacegroups),
            "parts": len(self.plans),
        }
        about = {
            "run": str(self.model.place.absolute()),
            "training_data": self.model.data.place,
            "denoiser": self.model.denoiser.config.name,
            "cuda_graphs": why_no_graphs(self.sampling, self.model.denoiser, self.device) or "on",
            "adit_scale": __version__,
        }
        return SampleFolder.begin(path, record, about, start_over)

    def draw(
        self,
        folder: SampleFolder,
        ranks: Ranks,
        on_samples: Callable[[float], object] | None = None,
        say: Callable[[str], object] = print,
    ) -> None:
        """This rank's share of what is missing. Raises ConfigError where the device's memory is too small."""
        denoiser = self.model.denoiser.to(self.device).eval().requires_grad_(False)
        autoencoder = self.model.autoencoder.to(self.device).eval().requires_grad_(False)
        try:
            draw_into(
                folder, denoiser, autoencoder, self.plans, self.sampling,
                ranks.rank, ranks.world_size, on_samples, say,
            )  # fmt: skip
        except torch.OutOfMemoryError as error:
            raise ConfigError(
                f"out of memory on {self.device}; lower batch_atoms (now {self.sampling.batch_atoms})"
            ) from error


def make_order(
    model: SampleModel, counts: Mapping[int, int], sampling: SamplingConfig, device: torch.device
) -> Order:
    """Draw what is asked of each sample.

    counts: samples by domain. Raises ConfigError, naming the setting, for what the model cannot be asked.
    """
    sampling = replace(
        for_device(sampling, device), crystals=counts.get(CRYSTAL, 0), molecules=counts.get(MOLECULE, 0)
    )
    sampling.validate()
    why_no_graphs(sampling, model.denoiser, device)
    data = model.data
    _check_domains(counts, data)
    drawn = sampling.chosen_spacegroup is None and CRYSTAL in counts
    check_spacegroups(sampling.chosen_spacegroup != 0 and CRYSTAL in counts, model.denoiser.config)
    by_spacegroup = data.spacegroups() if drawn else None
    sizes: dict[int, np.ndarray] = {}
    spacegroups: dict[int, np.ndarray | None] = {}
    for domain, n in counts.items():
        if sampling.chosen_atoms is None and data.sizes is None:
            raise ConfigError(
                f"{model.place}: does not say how many atoms its training data have; add data=FOLDER of "
                "shards whose sizes are drawn, or atoms=N"
            )
        histogram = np.zeros(1) if data.sizes is None else data.sizes[domain]
        sizes[domain] = sizes_asked(sampling, histogram, n, domain)
        spacegroups[domain] = spacegroups_asked(sampling, by_spacegroup, n, domain)
    return Order(model, sampling, sizes, spacegroups, device)


def _check_domains(counts: Mapping[int, int], data: TrainingData) -> None:
    known = data.domains()
    for domain in counts:
        if domain not in known:
            raise ConfigError(
                f"domain={DOMAIN_NAMES[domain]}: the training data of this model ({data.place}) hold no "
                f"{DOMAIN_NAMES[domain]}s; expected domain={','.join(DOMAIN_NAMES[d] for d in known)}"
            )


def _digests(columns: Mapping[int, np.ndarray | None]) -> dict[str, str]:
    return {
        DOMAIN_NAMES[domain]: hashlib.sha256(np.asarray(values, np.int64).tobytes()).hexdigest()
        for domain, values in columns.items()
        if values is not None
    }


@dataclass(frozen=True)
class Ranks:
    """Which of several processes this one is; local_rank: on its machine, which chooses its GPU."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @staticmethod
    def from_environment(environment: Mapping[str, Any] = os.environ) -> Ranks:
        """As torchrun says, else srun; alone without either. Raises ConfigError.

        In a batch script, outside any srun step, SLURM's variables count the tasks of the whole job, none of
        which has been started: alone.
        """
        if "RANK" in environment and "WORLD_SIZE" in environment:
            names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        elif "SLURM_STEP_ID" in environment and "SLURM_PROCID" in environment:
            tasks = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environment else "SLURM_NTASKS"
            names = ("SLURM_PROCID", tasks, "SLURM_LOCALID")
        else:
            return Ranks()
        words = [environment.get(name, default) for name, default in zip(names, ("", "", "0"), strict=True)]
        try:
            found = Ranks(*map(int, words))
        except ValueError:
            found = Ranks(-1)
        if not 0 <= found.rank < found.world_size:
            said = ", ".join(f"{name}={word}" for name, word in zip(names, words, strict=True))
            raise ConfigError(f"{said} in the environment; expected a rank below the number of processes")
        return found


def choose_device(word: str, local_rank: int = 0) -> torch.device:
    """``auto`` (CUDA where there is one), ``cpu``, ``cuda`` (this rank's), ``cuda:N``. Raises ConfigError."""
    n_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    kind, colon, number = word.partition(":")
    if word == "cpu" or (word == "auto" and not n_devices):
        return torch.device("cpu")
    if word in ("auto", "cuda") and n_devices:
        return torch.device("cuda", local_rank % n_devices)
    if kind == "cuda" and colon and number.isdecimal() and int(number) < n_devices:
        return torch.device(word)
    raise ConfigError(
        f"device={word}: {n_devices} CUDA devices are visible; expected auto, cpu, cuda or cuda:N"
    )
