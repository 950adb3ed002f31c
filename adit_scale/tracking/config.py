"""Settings of tracking. No heavy imports."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class TrackingConfig:
    """The journal is always written; these settings say where it is mirrored. Empty uri: nowhere."""

    uri: str = "sqlite:///runs/mlflow.db"
    experiment: str = "adit_scale"
