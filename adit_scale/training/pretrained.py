"""Trained models to give away: a folder of safetensors, settings and a model card, opened with one call.

    config.json               settings of the networks, digests of their weights, where they come from
    autoencoder.safetensors   fp32 weights by the networks' own names
    denoiser.safetensors      absent where an autoencoder alone was exported
    README.md                 the model card

``model = adit_scale.load_pretrained(folder)``, then ``model.sample(16, "crystal", seed=0)``. Neither
DeepSpeed nor the data set is needed. export.py makes the folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from adit_scale.atoms import DOMAIN_NAMES, AtomSet
from adit_scale.diffusion.config import SamplingConfig
from adit_scale.diffusion.generate import sizes_asked, spacegroups_asked
from adit_scale.errors import CheckpointError, ConfigError
from adit_scale.models.autoencoder import Autoencoder
from adit_scale.models.config import AutoencoderConfig, DenoiserConfig
from adit_scale.models.dit import Denoiser
from adit_scale.training import weights

FORMAT_VERSION = 1
CONFIG_FILE, CARD_FILE = "config.json", "README.md"
Network = TypeVar("Network", bound=nn.Module)


@dataclass
class Pretrained:
    """An opened export. denoiser: None where an autoencoder alone was exported. config: its config.json."""

    autoencoder: Autoencoder
    denoiser: Denoiser | None
    config: dict[str, Any]

    def to(self, device: torch.device | str) -> Pretrained:
        """Move both networks."""
        self.autoencoder.to(device)
        if self.denoiser is not None:
            self.denoiser.to(device)
        return self

    def sampling_settings(self) -> SamplingConfig:
        """The settings of sampling that the run was configured with; defaults for those it did not know."""
        known = {f.name for f in fields(SamplingConfig)}
        return replace(SamplingConfig(), **{k: v for k, v in self.config["sampling"].items() if k in known})

    def sample(self, n: int, domain: str, seed: int = 0, **sampling: Any) -> list[AtomSet]:
        """``n`` drawn crystals or molecules (``domain``), angstrom; ids such as ``crystal-17``.

        The same samples as of ``adit sample n=... domain=... seed=...``, on the networks' device. Sizes are
        drawn from those of the training data (``atoms=8``: eight each, which an imported model may need).
        Samples that describe no system of atoms are left out, their ids missing. sampling: any field of
        SamplingConfig, else as configured for the run. Sample i is a function of (seed, domain, i).

        Raises ConfigError for another domain or setting, or where the training data had none of it.
        """
        from adit_scale.evaluation.draw import draw_samples  # chemistry packages: heavy

        by_name = {name: number for number, name in DOMAIN_NAMES.items()}
        if self.denoiser is None:
            raise ConfigError("this export holds an autoencoder alone; sample from one of a diffusion run")
        if domain not in by_name:
            raise ConfigError(f"domain is {domain!r}; expected one of {', '.join(by_name)}")
        known = [f.name for f in fields(SamplingConfig) if f.name not in ("crystals", "molecules", "seed")]
        if unknown := sorted(sampling.keys() - {*known}):
            raise ConfigError(
                f"{unknown[0]}: no such setting of sampling; expected one of {', '.join(known)}"
            )
        settings = replace(self.sampling_settings(), seed=seed, **sampling)
        settings.validate()
        number = by_name[domain]
        sizes = {number: sizes_asked(settings, self._sizes(domain, settings), n, number)}
        spacegroups = {number: spacegroups_asked(settings, None, n, number)}
        drawn = draw_samples(self.denoiser, self.autoencoder, sizes, settings, spacegroups=spacegroups)[
            number
        ]
        return [one for one in drawn if isinstance(one, AtomSet)]

    def _sizes(self, domain: str, settings: SamplingConfig) -> np.ndarray:
        """The training data's histogram of set sizes. Raises ConfigError where it does not do."""
        known = self.config["data"].get("sizes")
        if known is None and settings.chosen_atoms is None:
            raise ConfigError(
                "this model does not say how many atoms its training data have; give atoms=N, or import it "
                "again with data=SHARDS"
            )
        histogram = np.array((known or {}).get(domain, [0]), np.int64)
        if known is not None and not histogram.sum():
            raise ConfigError(f"domain is {domain!r}, of which this model's training data had none")
        return histogram


def load_pretrained(folder: Path | str) -> Pretrained:
    """Open an export on the CPU, fp32, its weights checked against their digests. Raises CheckpointError."""
    folder = Path(folder)
    config = _read_config(folder)
    shapes = config["networks"]
    autoencoder = Autoencoder(AutoencoderConfig(**shapes["autoencoder"]))
    denoiser = Denoiser(DenoiserConfig(**shapes["denoiser"])) if "denoiser" in shapes else None
    return Pretrained(
        _filled(autoencoder, folder, "autoencoder", config),
        None if denoiser is None else _filled(denoiser, folder, "denoiser", config),
        config,
    )


def weights_file(network: str) -> str:
    return f"{network}.safetensors"


def _filled(network: Network, folder: Path, name: str, config: Mapping[str, Any]) -> Network:
    path = folder / weights_file(name)
    try:
        state: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read as safetensors: {error}; export it again") from error
    found, expected = weights.digest(state), config["weights_sha256"][name]
    if found != expected:
        raise CheckpointError(
            f"{path}: its weights have digest {found[:16]}, expected {expected[:16]} as config.json says; "
            "export it again"
        )
    weights.fill(network, state, path)
    return network.eval().requires_grad_(False)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise CheckpointError(f"{path}: missing; expected a folder made by `adit checkpoint export`")
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error}); export it again") from error
    version = config.get("pretrained_version") if isinstance(config, dict) else None
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: version {version} of an export, expected {FORMAT_VERSION}; export it again"
        )
    return config
