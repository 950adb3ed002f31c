"""What `adit sample run=...` may name, and what is found there: networks, their training data, settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from adit_scale import config as settings
from adit_scale.atoms import CRYSTAL, DOMAIN_NAMES
from adit_scale.data.config import DataConfig
from adit_scale.data.loader import size_histogram
from adit_scale.data.manifest import MANIFEST_FILE, Manifest, open_manifest
from adit_scale.data.shards import ShardReader
from adit_scale.diffusion.config import MAX_SPACEGROUP, SamplingConfig
from adit_scale.errors import CheckpointError, ConfigError
from adit_scale.jobs.node import CONFIG, NODE, NodeFolder
from adit_scale.models.autoencoder import Autoencoder
from adit_scale.models.dit import Denoiser
from adit_scale.training import checkpoint, pretrained, weights
from adit_scale.training.config import WEIGHTS_FILE

_BLOCK_SETS = 4096  # sets whose spacegroups are read at once


@dataclass(frozen=True)
class TrainingData:
    """Histograms of the training data, where it is known.

    sizes: by domain, ``histogram[n]`` structures of n atoms; None where nothing is known.
    place: for messages. manifest: of the shards, for what the histograms do not hold; None where they are not
    at hand.
    """

    sizes: Mapping[int, np.ndarray] | None
    place: str
    manifest: Manifest | None = None

    def domains(self) -> list[int]:
        """Those there are structures of; all where nothing is known."""
        if self.sizes is None:
            return list(DOMAIN_NAMES)
        return [domain for domain in DOMAIN_NAMES if domain in self.sizes and self.sizes[domain].sum()]

    def spacegroups(self) -> np.ndarray:
        """Training crystals by spacegroup, ``(231,)`` int64, those of unknown left out. Reads all blocks.

        Raises ConfigError where the shards are not at hand.
        """
        if self.manifest is None:
            raise ConfigError(
                "spacegroup=data: the model's folder does not hold the spacegroups of its training data; add "
                "data=FOLDER, its shards, or choose spacegroup=none or a number"
            )
        index = self.manifest.split("train")
        reader = ShardReader(self.manifest, "train")
        counts = np.zeros(MAX_SPACEGROUP + 1, np.int64)
        for first in range(0, len(index), _BLOCK_SETS):
            columns = reader.read_columns(np.arange(first, min(first + _BLOCK_SETS, len(index))))
            own = columns.spacegroup_s[(columns.domain_s == CRYSTAL) & (columns.spacegroup_s > 0)]
            counts += np.bincount(own, minlength=len(counts))
        return counts


@dataclass(frozen=True)
class SampleModel:
    """digests: sha256 of the weights by network. sampling: the settings that its run has for sampling."""

    place: Path
    autoencoder: Autoencoder
    denoiser: Denoiser
    digests: Mapping[str, str]
    sampling: SamplingConfig
    data: TrainingData


def open_model(run: Path, data: str = "", autoencoder: Path | None = None) -> SampleModel:
    """A diffusion (or evaluation) node, a run of `adit train`, or an exported or imported model; on the CPU.

    data: shards to take histograms from instead of what the model says. autoencoder: folder of the run that
    made the latents, where it has moved. Raises ConfigError, CheckpointError, DataError.
    """
    if not run.is_dir():
        raise ConfigError(f"run={run}: no such folder; expected a diffusion run or an exported model")
    if (run / pretrained.CONFIG_FILE).is_file() and not _inside_a_run(run):
        found = _exported(run, autoencoder)
    elif (run / NODE).is_file():
        found = _node(run, data, autoencoder)
    else:
        raise ConfigError(f"run={run}: {_no_model(run)}")
    if data:
        found = replace(found, data=_shards_data(DataConfig(shards=data), data))
    return found


def _exported(run: Path, autoencoder: Path | None) -> SampleModel:
    if autoencoder is not None:
        raise ConfigError(f"autoencoder={autoencoder}: not expected, {run} holds its own; leave it out")
    model = pretrained.load_pretrained(run)
    if model.denoiser is None:
        raise ConfigError(f"run={run}: holds an autoencoder alone; expected the export of a diffusion run")
    said = model.config.get("data", {}).get("sizes")
    sizes = (
        None
        if said is None
        else {domain: np.array(said.get(name, [0]), np.int64) for domain, name in DOMAIN_NAMES.items()}
    )
    return SampleModel(
        run,
        model.autoencoder,
        model.denoiser,
        model.config["weights_sha256"],
        model.sampling_settings(),
        TrainingData(sizes, str(run)),
    )


def _node(run: Path, data: str, autoencoder: Path | None) -> SampleModel:
    node = NodeFolder.load(run)
    if node.kind == "evaluation" and "diffusion" in node.inputs:
        return _node(node.inputs["diffusion"], data, autoencoder)
    if node.kind != "diffusion":
        raise ConfigError(f"run={run}: holds a node of kind {node.kind}; expected a diffusion run")
    if not (run / "weights" / WEIGHTS_FILE).is_file():
        raise CheckpointError(
            f"run={run}: has not finished, no {run.name}/weights; let it finish, or make a model of its "
            f"newest checkpoint with `adit checkpoint export {run} --to FOLDER` and sample run=FOLDER"
        )
    beside = autoencoder or node.inputs.get("autoencoder")
    if beside is None or not (beside / "weights").is_dir():
        raise CheckpointError(
            f"run={run}: its autoencoder is not at {beside}; add autoencoder=FOLDER of the run that made it"
        )
    config = settings.load(run / CONFIG)
    networks = weights.load_autoencoder(beside / "weights"), weights.load_denoiser(run / "weights")
    digests = dict(
        zip(("autoencoder", "denoiser"), (weights.digest(n.state_dict()) for n in networks), strict=True)
    )
    _check_autoencoder(run, beside, digests["autoencoder"])
    known = TrainingData(None, "") if data else _shards_data(config.data, config.data.shards)
    return SampleModel(run, *networks, digests, config.sampling, known)


def _check_autoencoder(run: Path, autoencoder: Path, found: str) -> None:
    """A denoiser speaks the latents of one autoencoder; its checkpoints, where there are any, say which."""
    steps = checkpoint.committed(run / "checkpoints")
    expected = checkpoint.read_state(steps[0]).autoencoder if steps else ""
    if expected and found != expected:
        raise CheckpointError(
            f"{autoencoder}: an autoencoder with digest {found[:16]}, but {run} was trained on the latents "
            f"of {expected[:16]}; give the right one with autoencoder=FOLDER"
        )


def _shards_data(data: DataConfig, place: str) -> TrainingData:
    if "://" not in data.shards and not (Path(data.shards) / MANIFEST_FILE).is_file():
        raise ConfigError(
            f"{place}: no {MANIFEST_FILE} there; expected the shards of the training data, whose sizes are "
            "drawn: data=FOLDER says where they are"
        )
    manifest = open_manifest(data)
    return TrainingData(
        {domain: size_histogram(manifest, domain) for domain in DOMAIN_NAMES}, place, manifest
    )


def _no_model(run: Path) -> str:
    """What to name instead."""
    nodes = sorted(p.parent.name for p in run.glob(f"diffusion-*/{NODE}"))
    if nodes:
        return (
            f"is a study of {len(nodes)} diffusion runs; expected one of them, such as run={run / nodes[0]}"
        )
    if _inside_a_run(run):
        return "is inside a run; expected the run's own folder"
    return "holds neither a diffusion run nor an exported model; expected the folder of one"


def _inside_a_run(run: Path) -> bool:
    inside = run.name in ("weights", "checkpoints") or run.name.startswith("step-")
    return inside and any((above / NODE).is_file() for above in (run.parent, run.parent.parent))
