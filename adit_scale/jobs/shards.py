"""Shards: built from the sources, or ready-made ones checked."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from adit_scale.config import StudyConfig
from adit_scale.data.build import build, source_identities
from adit_scale.data.building.identity import conversion
from adit_scale.data.config import DataConfig
from adit_scale.data.manifest import MANIFEST_FILE, SPLITS, Manifest, open_manifest, sets_file
from adit_scale.data.sources import Source
from adit_scale.errors import DataError
from adit_scale.jobs.node import NodeFolder, Result

PROGRESS_EVERY_S = 30.0


def run(node: NodeFolder, config: StudyConfig) -> Result:
    """Leaves ``data.shards`` with a manifest. Raises DataError."""
    place = config.data.shards
    sources = [Source.from_word(word) for word in config.data.sources]
    if sources and "://" in place:
        raise DataError(f"{place}: built shards need a folder; set data.shards to one, or empty data.sources")
    if sources and not (Path(place) / MANIFEST_FILE).is_file():
        manifest = build(sources, Path(place), config.data, _Progress())
    else:
        manifest = open_manifest(config.data)
        if sources:
            _check_sources(manifest, sources, config.data)
    n_sets = {split: manifest.n_sets(split) for split in SPLITS}
    for split, setting in (("train", "lower"), ("val", "raise")):
        if not n_sets[split]:  # said here, not when a trained network is first validated
            raise DataError(
                f"{place}: split {split!r} is empty; expected at least one structure: add structures, or "
                f"{setting} data.validation_fraction and build the shards again"
            )
    print(f"{place}: {n_sets} sets of {', '.join(manifest.datasets)}")
    values = {"shards": place, "fingerprint": manifest.fingerprint, "n_sets": n_sets}
    if "://" in place:  # nothing of ours to check again; each block's digest is checked as it is read
        return Result((), values)
    names = (MANIFEST_FILE, *(sets_file(split) for split in SPLITS))
    return Result(tuple(Path(place) / name for name in names), values)


def _check_sources(manifest: Manifest, sources: list[Source], data: DataConfig) -> None:
    """Shards that stand already must have been built from the very files and settings that are asked for."""
    cure = "remove the folder, or set data.shards to another (empty: a folder named by contents and settings)"
    built = sorted(
        (name, source["sha256"], source["split"])
        for name, described in manifest.descriptions.items()
        for source in described.get("sources", [])
    )
    asked = sorted((s["dataset"], s["sha256"], s["split"]) for s in source_identities(sources))
    if built != asked:
        raise DataError(f"{data.shards}: these shards were built from other files than data.sources; {cure}")
    wanted = conversion(data)
    for name, described in manifest.descriptions.items():
        found: dict[str, Any] = described.get("conversion", {})
        for key in sorted(wanted):
            if found.get(key) != wanted[key]:
                raise DataError(
                    f"{data.shards}: {name} was built with {key}={found.get(key)}; "
                    f"data.{key} asks for {wanted[key]}; {cure}"
                )


class _Progress:
    """A line now and then."""

    def __init__(self) -> None:
        self._shown_s = time.monotonic()

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        if time.monotonic() - self._shown_s >= PROGRESS_EVERY_S:
            self._shown_s = time.monotonic()
            print(f"{stage}: {done:,}{'' if total is None else f' of {total:,}'}", flush=True)
