"""Trained networks on disk: EMA weights as safetensors beside the settings that shape them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from adit_scale.errors import CheckpointError
from adit_scale.models.autoencoder import Autoencoder
from adit_scale.models.config import AutoencoderConfig, DenoiserConfig
from adit_scale.models.dit import Denoiser
from adit_scale.training.config import CONFIG_FILE, WEIGHTS_FILE


def save(folder: Path, config: AutoencoderConfig | DenoiserConfig, state: dict[str, Tensor]) -> None:
    """Write a network's weights (fp32) and its settings."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: t.detach().cpu().contiguous() for name, t in state.items()}, folder / WEIGHTS_FILE)
    record = {"network": type(config).__name__, "settings": asdict(config)}
    (folder / CONFIG_FILE).write_text(json.dumps(record, indent=1))


def load_autoencoder(folder: Path) -> Autoencoder:
    """The trained autoencoder of a run's ``weights`` folder, fp32 on the CPU. Raises CheckpointError."""
    network = Autoencoder(AutoencoderConfig(**_settings(folder, AutoencoderConfig)))
    _load(network, folder)
    return network.eval()


def load_denoiser(folder: Path) -> Denoiser:
    """The trained denoiser of a run's ``weights`` folder, fp32 on the CPU. Raises CheckpointError."""
    network = Denoiser(DenoiserConfig(**_settings(folder, DenoiserConfig)))
    _load(network, folder)
    return network.eval()


def digest(state: Mapping[str, Tensor]) -> str:
    """sha256 over names, shapes and fp32 values: the same for the same weights, whatever file holds them."""
    found = hashlib.sha256()
    for name, value in sorted(state.items()):
        found.update(f"{name} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().float().contiguous().view(-1).numpy().data)
    return found.hexdigest()


def _settings(folder: Path, kind: type) -> dict:
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise CheckpointError(f"{path}: missing; expected the weights of a finished training run")
    record = json.loads(path.read_text())
    if record.get("network") != kind.__name__:
        raise CheckpointError(f"{path}: describes {record.get('network')}, expected {kind.__name__}")
    return record["settings"]


def _load(network: nn.Module, folder: Path) -> None:
    path = folder / WEIGHTS_FILE
    try:
        state = load_file(path)
    except (FileNotFoundError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read as safetensors: {error}") from error
    fill(network, state, path)


def fill(network: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load weights read from ``path``. Raises CheckpointError naming the first that does not fit."""
    expected = {name: tuple(t.shape) for name, t in network.state_dict().items()}
    found = {name: tuple(t.shape) for name, t in state.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise CheckpointError(
                f"{path}: {name} has shape {found.get(name, 'none')}, expected {expected.get(name, 'none')}"
            )
    network.load_state_dict(state)
