"""What a run's data show it: sets and atoms an epoch, by domain. From the shards' manifest alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from adit_scale.config import StudyConfig
from adit_scale.data.config import DOMAINS, DataConfig
from adit_scale.data.manifest import MANIFEST_FILE, Manifest, open_manifest, size_counts
from adit_scale.scaling.points import EpochContents, epoch_contents


@dataclass(frozen=True)
class Shown:
    """An epoch of a run. atoms, sets: visits to them, by the name of the domain; unique_atoms: those of the
    different sets that are visited at all. n_held_out: sets of the validation split."""

    atoms: Mapping[str, float]
    sets: Mapping[str, float]
    unique_atoms: float
    n_held_out: int
    contents: EpochContents

    @property
    def only(self) -> str:
        """The one domain that is shown; "" where there are several."""
        visited = [name for name, sets in self.sets.items() if sets]
        return visited[0] if len(visited) == 1 else ""


@dataclass
class TrainingData:
    """Reads each manifest once. Shards that are not on this machine (a study copied from elsewhere) show
    nothing: then what they would tell stays unknown."""

    _manifests: dict[str, Manifest] = field(default_factory=dict)
    _shown: dict[str, Shown] = field(default_factory=dict)

    def shown(self, config: StudyConfig) -> Shown | None:
        """Of a run with these settings. Raises DataError for damaged shards."""
        data = config.data
        if "://" not in data.shards and not (Path(data.shards) / MANIFEST_FILE).is_file():
            return None
        key = json.dumps(asdict(data), sort_keys=True)
        if key not in self._shown:
            if data.shards not in self._manifests:
                self._manifests[data.shards] = open_manifest(data)
            self._shown[key] = _shown(self._manifests[data.shards], data)
        return self._shown[key]


def _shown(manifest: Manifest, data: DataConfig) -> Shown:
    repeat = np.array([data.repeat.get(name, 1.0) for name in manifest.datasets])
    index = manifest.split("train")
    atoms, sets, unique = {}, {}, 0.0
    for name, code in DOMAINS.items():
        if not code:
            continue
        counts = size_counts(index, len(manifest.datasets), code) * (data.domain in ("", name))
        visits, sizes = repeat @ counts, np.arange(counts.shape[1])
        atoms[name], sets[name] = float(visits @ sizes), float(visits.sum())
        unique += float(((repeat > 0) @ counts) @ sizes)
    return Shown(atoms, sets, unique, manifest.n_sets("val"), epoch_contents(data))
