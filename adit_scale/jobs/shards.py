"""Shards: built from the sources, or ready-made ones checked."""

from __future__ import annotations

from pathlib import Path

from adit_scale.config import StudyConfig
from adit_scale.data.build import build
from adit_scale.data.manifest import MANIFEST_FILE, SETS_FILE, Manifest
from adit_scale.errors import DataError
from adit_scale.jobs.node import NodeFolder, Result, file_digest

PROGRESS_EVERY = 5000


def run(node: NodeFolder, config: StudyConfig) -> Result:
    """Leaves ``data.shards`` with a manifest. Raises DataError."""
    folder = Path(config.data.shards)
    sources = [Path(source) for source in config.data.sources]
    if sources and not (folder / MANIFEST_FILE).is_file():
        manifest = build(sources, folder, config.data, _print_progress)
    else:
        manifest = Manifest.load(folder)
        _check_sources(manifest, sources, folder)
    n_sets = {split: len(table.n_atoms) for split, table in manifest.sets.items()}
    for split, setting in (("train", "lower"), ("val", "raise")):
        if not n_sets[split]:  # said here, not when a trained network is first validated
            raise DataError(
                f"{folder}: split {split!r} is empty; expected at least one structure: add structures, or "
                f"{setting} data.validation_fraction and build the shards again"
            )
    print(f"{folder}: {n_sets} sets of {', '.join(manifest.datasets)}")
    values = {"shards": str(folder), "fingerprint": manifest.fingerprint, "n_sets": n_sets}
    return Result((folder / MANIFEST_FILE, folder / SETS_FILE), values)


def _check_sources(manifest: Manifest, sources: list[Path], folder: Path) -> None:
    """Shards that stand already must have been built from the very files that are asked for."""
    if not sources:
        return
    built = sorted(str(d.get("source_sha256", "")) for d in manifest.descriptions.values())
    asked = sorted(file_digest(source) for source in sources)
    if built != asked:
        raise DataError(
            f"{folder}: these shards were built from other files than data.sources; remove the folder, "
            f"or set data.shards to another (empty: a folder named by the files' contents)"
        )


def _print_progress(dataset: str, count: int) -> None:
    if count % PROGRESS_EVERY == 0:
        print(f"{dataset}: {count:,} structures read", flush=True)
