"""From a run's checkpoint to a model that can be given away (pretrained.py opens it)."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from adit_scale.atoms import DOMAIN_NAMES
from adit_scale.data.loader import size_histogram
from adit_scale.data.manifest import Manifest
from adit_scale.errors import CheckpointError, ConfigError
from adit_scale.models.config import DenoiserConfig
from adit_scale.tracking.journal import FILE_NAME, read_journal, series
from adit_scale.training import checkpoint, weights
from adit_scale.training.checkpoint import Checkpoint, TrainState
from adit_scale.training.config import OptimConfig
from adit_scale.training.optimizer import parametrized
from adit_scale.training.pretrained import CARD_FILE, CONFIG_FILE, FORMAT_VERSION, weights_file

KEYS = {"ema": "ema", "weights": "master"}
NODE_FILE = "node.json"
CARD_LOSSES = ("train/loss", "validation/loss")
_CARD = """\
---
license: other
library_name: adit_scale
---
# {title}

{what} of all-atom diffusion ([ADiT](https://arxiv.org/abs/2503.03965)), trained with adit_scale.

| | |
|---|---|
{rows}

## Data

Fingerprint `{fingerprint}`.

| data set | source | licence |
|---|---|---|
{datasets}

The data sets' licences may bind what is made from this model.

## Use

```python
import adit_scale

model = adit_scale.load_pretrained("{folder}")
{use}
```
"""


def describe_data(manifest: Manifest) -> dict[str, Any]:
    """What an exported model says of its data: data sets with their sources and licences, and set sizes."""

    def said(name: str) -> dict[str, str]:
        return {k: v for k, v in manifest.descriptions.get(name, {}).items() if isinstance(v, str)}

    return {
        "datasets": {name: said(name) for name in manifest.datasets},
        "sizes": {name: size_histogram(manifest, domain).tolist() for domain, name in DOMAIN_NAMES.items()},
    }


def export(source: Path, to: Path, what: str = "ema", autoencoder: Path | None = None) -> Path:
    """Write the model of a checkpoint into the new folder ``to``.

    source: a run's folder (its newest checkpoint is taken) or a step's. what: "ema" or "weights".
    autoencoder: the weights folder of the run that made a diffusion run's latents; by default as node.json
    beside the checkpoints says. Raises CheckpointError, ConfigError.
    """
    if to.exists() and any(to.iterdir()):
        raise ConfigError(f"{to}: not empty; expected a new folder")
    run, step = locate(source)
    saved = Checkpoint(step)
    state = saved.state
    networks, shapes = {state.stage: _gathered(saved, KEYS[what])}, {}
    model = state.config["model"]
    if state.stage == "diffusion":
        networks = {
            "denoiser": networks["diffusion"],
            "autoencoder": _frozen_autoencoder(run, state, autoencoder),
        }
        optim = OptimConfig(**state.config["diffusion"]["optim"])
        shapes["denoiser"] = asdict(parametrized(DenoiserConfig(**model["denoiser"]), optim))
    shapes["autoencoder"] = model["autoencoder"]
    config = {
        "pretrained_version": FORMAT_VERSION,
        "networks": shapes,
        "weights": what,
        "weights_sha256": {name: weights.digest(tensors) for name, tensors in networks.items()},
        "sampling": {k: v for k, v in state.config["sampling"].items() if k not in ("crystals", "molecules")},
        "data": {**state.data, "fingerprint": state.fingerprint},
        "trained": {
            **{k: getattr(state, k) for k in ("stage", "step", "atoms_seen", "sets_seen", "flops")},
            "losses": _losses(run, state.step),
            "seed": state.config["seed"],
            "precision": state.config["parallel"]["precision"],
            "settings": state.config[state.stage],
        },
    }
    to.mkdir(parents=True, exist_ok=True)
    for name, tensors in networks.items():
        save_file(tensors, to / weights_file(name))
    (to / CARD_FILE).write_text(_card(to, config, networks))
    checkpoint.replace_synced(
        to / CONFIG_FILE, json.dumps(config, indent=1).encode()
    )  # last: now it is whole
    return to


def locate(path: Path) -> tuple[Path, Path]:
    """(run, folder of a checkpoint) of a run's folder, its checkpoints folder, or one step's folder.

    Of a run, the newest committed checkpoint. Raises CheckpointError where there is none.
    """
    path = path.absolute()
    if path.name.startswith("step-") and path.is_dir():
        return path.parent.parent, path
    root = path if path.name == "checkpoints" else path / "checkpoints"
    found = checkpoint.committed(root)
    if not found:
        raise CheckpointError(f"{root}: no committed checkpoint; expected the folder of a training run")
    return root.parent, found[0]


def _gathered(saved: Checkpoint, key: str) -> dict[str, Tensor]:
    """Whole parameters by the bare network's names, fp32."""
    return {
        name.removeprefix("network."): saved.read(name, 0, math.prod(shape), key).view(torch.Size(shape))
        for name, shape in saved.state.shapes.items()
    }


def _frozen_autoencoder(run: Path, state: TrainState, folder: Path | None) -> dict[str, Tensor]:
    """Weights of the autoencoder that a diffusion run was trained on, told by their digest."""
    folder = folder or _autoencoder_of_node(run)
    tensors = dict(weights.load_autoencoder(folder).state_dict())
    found = weights.digest(tensors)
    if state.autoencoder and found != state.autoencoder:
        raise CheckpointError(
            f"{folder}: an autoencoder with digest {found[:16]}, but the run was trained on the latents of "
            f"{state.autoencoder[:16]}; give the right one with --autoencoder FOLDER"
        )
    return tensors


def _autoencoder_of_node(run: Path) -> Path:
    path = run / NODE_FILE
    inputs = json.loads(path.read_text()).get("inputs", {}) if path.is_file() else {}
    if "autoencoder" not in inputs:
        raise ConfigError(
            f"{path}: does not say which autoencoder the run was trained on; give its weights folder with "
            "--autoencoder FOLDER"
        )
    return Path(inputs["autoencoder"]) / "weights"


def _losses(run: Path, step: int) -> dict[str, float]:
    """The last losses journaled up to ``step``; those that there are."""
    found: dict[str, float] = {}
    if (run / FILE_NAME).is_file():
        records = read_journal(run)
        for key in CARD_LOSSES:
            values = [value for at, value in zip(*series(records, key), strict=True) if at <= step]
            found |= {key: values[-1]} if values else {}
    return found


def _card(to: Path, config: dict[str, Any], networks: dict[str, dict[str, Tensor]]) -> str:
    trained = config["trained"]
    diffusion = trained["stage"] == "diffusion"
    rows = {
        **{
            f"parameters of the {name}": f"{sum(t.numel() for t in tensors.values()):,}"
            for name, tensors in networks.items()
        },
        "weights": "exponential moving average" if config["weights"] == "ema" else "as trained, not averaged",
        "steps": f"{trained['step']:,}",
        "atoms seen": f"{trained['atoms_seen']:,}",
        "structures seen": f"{trained['sets_seen']:,}",
        "training compute": f"{trained['flops']:.3g} FLOP",
        "precision": trained["precision"],
        "seed": str(trained["seed"]),
        **{name: f"{value:.5g}" for name, value in trained["losses"].items()},
    }
    datasets = config["data"].get("datasets", {})
    use = 'crystals = model.sample(16, "crystal", seed=0)  # a list of AtomSet, angstrom'
    return _CARD.format(
        title=to.name,
        what="Diffusion transformer and autoencoder" if diffusion else "Autoencoder",
        rows="\n".join(f"| {name} | {value} |" for name, value in rows.items()),
        fingerprint=config["data"]["fingerprint"],
        datasets="\n".join(
            f"| {name} | {said.get('source') or 'not stated'} | {said.get('licence') or 'not stated'} |"
            for name, said in datasets.items()
        ),
        folder=to.name,
        use=use if diffusion else "model.autoencoder  # torch.nn.Module",
    )
