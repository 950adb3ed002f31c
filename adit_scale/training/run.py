"""From settings to a finished run: builds the stage, its data and the trainer, and starts the loop.

Called on every rank (torchrun, srun or a single process). Fresh and resumed runs are the same call.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from adit_scale.config import StudyConfig
from adit_scale.data.loader import BatchLoader
from adit_scale.errors import ConfigError
from adit_scale.models.precision import multiplies_bf16
from adit_scale.training import weights
from adit_scale.training.backends import decide
from adit_scale.training.config import ParallelConfig
from adit_scale.training.out_of_memory import Sizes, fits_or_says
from adit_scale.training.stages import AutoencoderStage, DiffusionStage, Stage

if TYPE_CHECKING:
    from adit_scale.training.side_scoring import SideScoring

SINGLE_PROCESS = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
ANY_SIZE = 1 << 40  # atoms; more than a step has
# From the run's folder, settings and autoencoder weights to what scores its samples; None for no samples.
ScorerFactory = Callable[[Path, StudyConfig, Path], "SideScoring | None"]


def train(
    folder: Path,
    config: StudyConfig,
    kind: str,
    autoencoder_weights: Path | None = None,
    make_scorer: ScorerFactory | None = None,
    start_from: Path | None = None,
) -> bool:
    """Train one stage in ``folder``; ``kind`` is ``autoencoder`` or ``diffusion``.

    start_from: the checkpoint of a trunk, for a decay branch whose settings branches.plan_branch made. It is
    read only while the folder has no checkpoint of its own.

    Returns True when the run is finished (its weights are exported), False when it was asked to stop and
    should be started again. Raises AditError for anything a user can cure.
    """
    device = choose_device(config.parallel)
    config = replace(config, parallel=resolve_precision(config.parallel, device))
    # DeepSpeed picks its accelerator when it is imported, so the import has to wait for choose_device.
    from adit_scale.training.trainer import Trainer

    if config.parallel.threads:
        torch.set_num_threads(config.parallel.threads)
    joined_here = not dist.is_initialized()
    if joined_here:
        init_process_group(device)
    _check_world_size(config.parallel)
    loader = _open_loader(kind, config, device)
    stage = _build_stage(kind, config, loader.datasets, autoencoder_weights, device)
    sizes = Sizes(loader.visits_by_size)
    searched = config.parallel.micro_batch == "auto"
    config, setup = decide(folder, config, stage, sizes, device)
    if searched:
        loader = _open_loader(kind, config, device)
    if isinstance(stage, DiffusionStage) and config.diffusion.latent_cache:
        root = _latents_root(folder, autoencoder_weights)
        stage.open_latents(root, loader.manifest, setup.micro_batch.atoms, device)
    elif isinstance(stage, DiffusionStage) and config.parallel.compile:
        stage.compile_encoder()
    samples = None
    if make_scorer and kind == "diffusion":
        assert autoencoder_weights is not None
        samples = make_scorer(folder, config, autoencoder_weights)
    with loader, fits_or_says(config, stage, sizes, device):
        finished = Trainer(folder, config, stage, loader, device, samples, start_from, setup).fit()
    dist.barrier()
    if joined_here:
        dist.destroy_process_group()
    return finished


def _open_loader(kind: str, config: StudyConfig, device: torch.device) -> BatchLoader:
    """Of this rank. Before a micro-batch is searched for, it may be of any size."""
    settings = config.autoencoder if kind == "autoencoder" else config.diffusion
    parallel = config.parallel
    any_size = parallel.micro_batch == "auto" and not parallel.micro_batch_atoms
    return BatchLoader(
        config.data,
        seed=config.seed,
        atom_budget=settings.atom_budget,
        micro_batch_atoms=ANY_SIZE if any_size else parallel.capacity_atoms,
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        capacity=parallel.compile,
        pin_memory=device.type == "cuda",
    )


def _latents_root(folder: Path, autoencoder_weights: Path | None) -> Path:
    """The folder of a cache of latents: the study's that trained the autoencoder, where that is one beside
    this run's, so that studies which share an autoencoder share its latents; else this run's own."""
    assert autoencoder_weights is not None
    study = autoencoder_weights.absolute().parent.parent
    return study if study.parent == folder.absolute().parent.parent else folder.parent


def choose_device(parallel: ParallelConfig) -> torch.device:
    """This process's device. Raises ConfigError where CUDA was asked for and there is none."""
    available = torch.cuda.is_available()
    if parallel.device == "cuda" and not available:
        raise ConfigError("parallel.device=cuda, but no CUDA device is visible; set parallel.device=cpu")
    if parallel.device == "cpu" or not available:
        os.environ["DS_ACCELERATOR"] = "cpu"  # read by DeepSpeed when it is imported
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def resolve_precision(parallel: ParallelConfig, device: torch.device) -> ParallelConfig:
    """``precision: auto`` made definite: bf16 on CUDA and on processors with bf16 products, else fp32."""
    if parallel.precision != "auto":
        return parallel
    # bf16 needs a stage that keeps fp32 master weights.
    fast = parallel.zero_stage and multiplies_bf16(device)
    return replace(parallel, precision="bf16" if fast else "fp32")


def init_process_group(device: torch.device) -> None:
    """Join the ranks that the environment describes; without such an environment, be the only one."""
    from adit_scale.training.engine import init_distributed

    if "RANK" not in os.environ:
        os.environ.update(SINGLE_PROCESS, MASTER_PORT=_free_port())
    init_distributed(device)


def _free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def _check_world_size(parallel: ParallelConfig) -> None:
    if dist.get_world_size() != parallel.world_size:
        raise ConfigError(
            f"parallel.world_size is {parallel.world_size}, but {dist.get_world_size()} processes were "
            "started; expected the same number"
        )


def _build_stage(
    kind: str,
    config: StudyConfig,
    datasets: list[str],
    autoencoder_weights: Path | None,
    device: torch.device,
) -> Stage:
    torch.manual_seed(config.seed)  # initial weights; every other draw is counter-based
    if kind == "autoencoder":
        return AutoencoderStage(config.model.autoencoder, config.autoencoder, config.seed, datasets)
    assert kind == "diffusion", kind
    assert autoencoder_weights is not None
    autoencoder = weights.load_autoencoder(autoencoder_weights).to(device)
    return DiffusionStage(config.model.denoiser, config.diffusion, config.seed, datasets, autoencoder)
