"""The root of all settings: one typed tree, composed by Hydra, validated before any job starts.

Each group's settings stand beside their owner; this file only joins them. ``StudyConfig`` is what
``launch.py`` composes; every job of a study is started from a frozen copy with its own point's values.
No heavy imports.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from adit_scale.data.config import DataConfig
from adit_scale.diffusion.config import NO_LABEL, SamplingConfig, check_spacegroups
from adit_scale.errors import ConfigError, check_range
from adit_scale.evaluation.config import EvaluationConfig
from adit_scale.models.config import ModelConfig
from adit_scale.scaling.config import BudgetConfig, ScaleConfig, SweepConfig
from adit_scale.tracking.config import TrackingConfig
from adit_scale.training.config import AutoencoderStageConfig, DiffusionStageConfig, ParallelConfig


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
    scale: ScaleConfig = field(default_factory=ScaleConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    launcher: dict[str, Any] = field(default_factory=dict)

    def validate(self) -> None:
        check_range("seed", self.seed, 0)
        if not self.runs:
            raise ConfigError("runs is empty; expected a folder")
        for f in fields(self):
            group = getattr(self, f.name)
            if is_dataclass(group) and hasattr(group, "validate"):
                group.validate()
        check_spacegroups(self.sampling.spacegroup != NO_LABEL, self.model.denoiser)


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
    check(config)
    return config


def check(config: StudyConfig) -> None:
    """Raises ConfigError for a value out of range."""
    _check_finite(asdict(config))
    config.validate()


def _check_finite(tree: dict[str, Any], above: str = "") -> None:
    for key, value in tree.items():
        if isinstance(value, dict):
            _check_finite(value, f"{above}{key}.")
        elif isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{above}{key} is {value}; expected a finite number")


def save(config: StudyConfig, path: Path) -> None:
    """Write the settings as YAML, every value spelled out."""
    path.write_text("".join(_yaml(f.name, getattr(config, f.name)) for f in fields(config)))


_YAML: dict[tuple[str, str], str] = {}  # the many nodes of a study share most of their groups


def _yaml(name: str, group: Any) -> str:
    """One group of the settings, or one setting of the root."""
    key = name, repr(group)
    if key not in _YAML:
        _YAML[key] = OmegaConf.to_yaml(OmegaConf.create({name: group}), sort_keys=False)
    return _YAML[key]


def load(path: Path) -> StudyConfig:
    """Read settings written by ``save``. Raises ConfigError."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such settings file; expected the config.yaml of a run folder")
    try:
        tree = OmegaConf.load(path)
    except (YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    return from_tree(tree)


def _one_line(error: OmegaConfBaseException) -> str:
    """OmegaConf's first line, with the full key, without its type dump."""
    message = str(error).strip().splitlines()[0]
    key = getattr(error, "full_key", None)
    if isinstance(error, ConfigKeyError) and key and is_dataclass(error.object_type):
        known = ", ".join(f.name for f in fields(error.object_type))
        return f"{key}: no such setting; expected one of {known}"
    return f"{key}: {message}" if key and key not in message else message
