"""The root of all settings: one typed tree, composed by Hydra, validated before any job starts.

Each group's settings stand beside their owner; this file only joins them. ``StudyConfig`` is what
``launch.py`` composes; every job of a study is started from a frozen copy with its own point's values.
No heavy imports.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from adit_scale.data.config import DataConfig
from adit_scale.diffusion.config import SamplingConfig
from adit_scale.errors import ConfigError
from adit_scale.evaluation.config import EvaluationConfig
from adit_scale.models.config import ModelConfig
from adit_scale.scaling.config import SweepConfig
from adit_scale.tracking.config import TrackingConfig
from adit_scale.training.config import AutoencoderStageConfig, DiffusionStageConfig, ParallelConfig

# Groups that say where and how a run is computed but not what; they stand outside a point's identity.
OPERATIONAL_GROUPS = ("launcher", "parallel", "tracking", "runs")


@dataclass
class StudyConfig:
    """seed: of weights, order and noise. runs: the folder that holds one folder a study."""

    seed: int = 0
    runs: str = "runs"
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    autoencoder: AutoencoderStageConfig = field(default_factory=AutoencoderStageConfig)
    diffusion: DiffusionStageConfig = field(default_factory=DiffusionStageConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    launcher: dict[str, Any] = field(default_factory=dict)

    def validate(self) -> None:
        for f in fields(self):
            group = getattr(self, f.name)
            if is_dataclass(group) and hasattr(group, "validate"):
                group.validate()


def from_tree(tree: DictConfig | ListConfig | dict) -> StudyConfig:
    """The typed settings of a composed tree.

    Raises ConfigError for an unknown key, a value of the wrong type or a value out of range.
    """
    try:
        merged = OmegaConf.merge(OmegaConf.structured(StudyConfig), tree)
        config = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise ConfigError(_one_line(error)) from error
    assert isinstance(config, StudyConfig)
    config.validate()
    return config


def save(config: StudyConfig, path: Path) -> None:
    """Write the settings as YAML, every value spelled out."""
    path.write_text(OmegaConf.to_yaml(OmegaConf.structured(config), sort_keys=False))


def load(path: Path) -> StudyConfig:
    """Read settings written by ``save``. Raises ConfigError."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such settings file; expected the config.yaml of a run folder")
    return from_tree(OmegaConf.load(path))


def _one_line(error: OmegaConfBaseException) -> str:
    """OmegaConf's first line, with the full key, without its type dump."""
    message = str(error).strip().splitlines()[0]
    key = getattr(error, "full_key", None)
    return f"{key}: {message}" if key and key not in message else message
