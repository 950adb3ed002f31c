"""Who a node is: the hash of the settings that decide its result and of its inputs' ids."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from adit_scale.config import StudyConfig
from adit_scale.data.building.identity import conversion
from adit_scale.data.config import DataConfig
from adit_scale.errors import DataError
from adit_scale.evaluation.config import OPERATIONAL, EvaluationConfig
from adit_scale.jobs.node import file_digest
from adit_scale.scaling.config import SweepConfig

# Settings of a stage that say how often something is written, not what is computed.
BOOKKEEPING = (
    "log_every_steps",
    "checkpoint_every_steps",
    "checkpoint_async",
    "keep_checkpoints",
    "keep_every_hours",
    "keep_best",
    "branch_steps",
    "spike_factor",
    "profile",
    "scoring",
)
# Settings that came after the first studies. At these values they are no part of an id, so that nodes made
# before they were there stay what they are.
LATER: dict[str, Any] = {
    "model.base_head_width": 0,
    "stage.optim.base_width": None,  # dropped with the standard parametrization, which does not read them
    "stage.optim.base_head_width": None,
    "stage.optim.parametrization": "standard",
}
SWEEP_OF_FIRST_STUDIES = (
    "name", "hypothesis", "grid", "zip", "exclude", "overrides_by_size", "bootstrap", "hold_out_largest",
)  # fmt: skip


def node_id(kind: str, science: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """sha256 of what decides a node's result: its kind, its settings and its inputs' ids."""
    text = json.dumps({"kind": kind, "science": science, "inputs": inputs}, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def science(kind: str, config: StudyConfig) -> dict[str, Any]:
    """The settings that decide the result of a node of this kind; its inputs' own are left to them."""
    if kind in ("autoencoder", "diffusion"):
        stage = asdict(config.autoencoder if kind == "autoencoder" else config.diffusion)
        shape = config.model.autoencoder if kind == "autoencoder" else config.model.denoiser
        found: dict[str, Any] = {
            "seed": config.seed,
            "repeat": dict(config.data.repeat),
            "model": asdict(shape),
            "stage": {key: value for key, value in stage.items() if key not in BOOKKEEPING},
        }
        if kind == "diffusion" and config.data.domain:
            found |= {"domain": config.data.domain, "domain_match": config.data.domain_match}
        return _without_later(found)
    if kind == "report":
        sweep, defaults = asdict(config.sweep), asdict(SweepConfig())
        return {k: v for k, v in sweep.items() if k in SWEEP_OF_FIRST_STUDIES or v != defaults[k]}
    evaluation = _evaluation_science(config.evaluation)
    if kind == "reference":
        return {"evaluation": evaluation}
    assert kind == "evaluation", kind
    evaluation.pop("reference_sets")
    sampling = asdict(config.sampling)
    # Sample i is the same in any batch, however its evaluations are run.
    for key in ("batch_atoms", "batch_sets", "pad_batches", "cuda_graphs", "compile"):
        sampling.pop(key)
    return {"evaluation": evaluation, "sampling": sampling}


def _without_later(science: dict[str, Any]) -> dict[str, Any]:
    """``science`` without what has a value of LATER; its tables may be changed in place."""
    standard = science["stage"]["optim"].get("parametrization") == "standard"
    for path, default in LATER.items():
        *above, key = path.split(".")
        table = science
        for part in above:
            table = table[part]
        if key in table and (standard if default is None else table[key] == default):
            del table[key]
    return science


def _evaluation_science(config: EvaluationConfig) -> dict[str, Any]:
    """Without what decides only how long scoring takes; a hull by its contents, not by its place.

    Raises DataError where the hull's file is missing.
    """
    found = asdict(config)
    for key in OPERATIONAL:
        found.pop(key)
    if config.hull:
        if not Path(config.hull).is_file():
            raise DataError(f"evaluation.hull: {config.hull}: no such file; expected JSON of entries")
        found["hull"] = file_digest(Path(config.hull))
    return found


def shards_science(data: DataConfig) -> dict[str, Any]:
    """Contents of the sources and how they are converted; for ready-made shards, their fingerprint.

    Raises DataError naming the first source that is missing.
    """
    if data.sources:
        from adit_scale.data.build import source_identities  # heavy, as what is below
        from adit_scale.data.sources import Source

        try:
            sources = source_identities([Source.from_word(word) for word in data.sources])
        except DataError as error:
            raise DataError(f"data.sources: {error}") from error
        return {"sources": sources, "conversion": conversion(data)}
    if not data.shards:
        raise DataError(
            "data.sources is empty; expected files such as 'data.sources=[a.extxyz.gz,b.csv.gz]', "
            "or data.shards=FOLDER of shards that stand"
        )
    from adit_scale.data.manifest import open_manifest

    return {"fingerprint": open_manifest(data).fingerprint}
