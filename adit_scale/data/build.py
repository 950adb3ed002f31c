"""Raw structures into shards: convert, sift, split, shuffle, write, describe. Same input, same bytes.

Neither the number of processes, nor where a build was ended and begun again, nor what else is in the data
set changes a structure's bytes or its split.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from adit_scale.atoms import AtomSet
from adit_scale.data.building.conversion import Progress, convert_sets, convert_sources, labels
from adit_scale.data.building.describe import Census, describe
from adit_scale.data.building.duplicates import find_duplicates
from adit_scale.data.building.identity import (
    STRUCTURES,
    conversion,
    read_lists,
    refuse_repeated,
    source_sha256,
)
from adit_scale.data.building.ledger import LEFT_OUT, STORED, Ledger, NothingUsableError
from adit_scale.data.building.shuffling import bucket_bounds, distribute, load_bucket
from adit_scale.data.building.splits import order_on_disk, split_of_sets
from adit_scale.data.building.staging import bytes_of_sets
from adit_scale.data.building.workplace import Workplace, code_sha256, refuse_used, workplace
from adit_scale.data.building.writing import ShardWriter
from adit_scale.data.config import DataConfig
from adit_scale.data.manifest import SET_DTYPE, SPLITS, Manifest, encode_rows, sets_file
from adit_scale.data.sources import Source, format_of
from adit_scale.data.sources.source import bare_name
from adit_scale.data.storage import LocalFolder
from adit_scale.errors import DataError

__all__ = ["REJECTED_FILE", "Progress", "build", "build_from_sets", "source_identities"]

REJECTED_FILE = "rejected.jsonl"
_LIBRARIES = ("numpy", "spglib", "pymatgen", "ase", "rdkit")


def build(
    sources: Sequence[Source],
    out: Path,
    config: DataConfig,
    progress: Progress | None = None,
    overwrite: bool = False,
    stated: dict[str, dict[str, Any]] | None = None,
) -> Manifest:
    """Convert raw files into the data set folder ``out``, in ``config.build_workers`` processes.

    progress: see ``Progress``. overwrite: replace a data set that stands at ``out`` already.
    stated: by data set name, what else the manifest is to say, such as ``licence``.
    What is left out stands in ``out/rejected.jsonl`` with the reason. A build that is ended early leaves
    ``.NAME.partial`` beside ``out``; the same build goes on from it.
    Raises DataError for a source that cannot be read, two files of one name, no usable structure, a full
    disk, or an ``out`` that is in use.
    """
    config.validate()
    refuse_used(out, overwrite)
    with workplace(out) as place:
        before = _stamps(sources)
        identities = source_identities(sources, progress)
        place.begin(
            {
                "code": code_sha256(),
                "libraries": {name: importlib.metadata.version(name) for name in _LIBRARIES},
                "settings": {key: getattr(config, key) for key in STRUCTURES},
                "sources": identities,
            }
        )
        pieces = convert_sources(sources, place.pieces, config, progress)
        for source, stamp in zip(sources, before, strict=True):
            if [stamp] != _stamps([source]):
                place.discard()
                raise DataError(f"{source.path}: was changed while it was read; build again")
        said = _describe_sources(identities)
        try:
            ledger = Ledger.gather(pieces, {name: words["source"] for name, words in said.items()})
        except NothingUsableError:
            place.discard()
            raise
        for name, words in (stated or {}).items():
            said[name] = {**said.get(name, {}), **words}
        return _finish(place, ledger, config, said, progress, overwrite)


def build_from_sets(
    sets: Iterable[AtomSet],
    out: Path,
    config: DataConfig,
    sources_meta: dict[str, dict[str, str]] | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> Manifest:
    """Write structures made in memory as the data set folder ``out``; see ``build``.

    sets: of any number of data sets, named by ``AtomSet.dataset``; ids unique within each. They are
        checked and brought to standard form (centred, Niggli-reduced) as if read from a file.
    sources_meta: by data set name, what the manifest is to say, such as ``source`` and ``licence``.
    """
    config.validate()
    refuse_used(out, overwrite)
    with workplace(out) as place:
        place.begin({})
        place.discard()
        pieces = convert_sets(sets, place.pieces, config, progress)
        ledger = Ledger.gather(
            pieces, {n: words.get("source", n) for n, words in (sources_meta or {}).items()}
        )
        return _finish(place, ledger, config, sources_meta or {}, progress, overwrite)


def source_identities(sources: Sequence[Source], progress: Progress | None = None) -> list[dict[str, str]]:
    """Of each source its data set, its file's name, its sha256, and what else decides its structures' names.

    Raises DataError for sources that are missing or cannot make data sets together.
    """
    refuse_repeated([(s.dataset, bare_name(s.path)[0], s.path) for s in sources])
    for source in sources:
        if not source.path.exists():
            raise DataError(f"{source.path}: no such file; check data.sources")
        format_of(source)
    found = []
    for number, (source, label) in enumerate(zip(sources, labels(sources), strict=True)):
        if progress is not None:
            progress("checking sources", number, len(sources))
        row = {"dataset": source.dataset, "name": source.path.name, "sha256": source_sha256(source.path)}
        found.append({**row, "split": source.split, "label": label})
    return found


def _stamps(sources: Sequence[Source]) -> list[tuple[int, int]]:
    """Sizes and times of change; 0 for what is missing."""
    stats = [source.path.stat() if source.path.exists() else None for source in sources]
    return [(stat.st_size, stat.st_mtime_ns) if stat else (0, 0) for stat in stats]


def _describe_sources(identities: Sequence[dict[str, str]]) -> dict[str, dict[str, Any]]:
    said: dict[str, dict[str, Any]] = {}
    for row in identities:
        words = said.setdefault(row["dataset"], {"source": "", "sources": []})
        words["source"] += f"{', ' if words['source'] else ''}{row['name']}"
        words["sources"].append({key: row[key] for key in ("name", "sha256", "split")})
    return said


def _finish(
    place: Workplace,
    ledger: Ledger,
    config: DataConfig,
    stated: dict[str, dict[str, Any]],
    progress: Progress | None,
    overwrite: bool,
) -> Manifest:
    """Everything after the conversion."""
    ledger.reject_repeated_ids()
    if config.deduplicate:
        find_duplicates(ledger, place.buckets, config, progress)
    split_s = split_of_sets(ledger.facts, ledger.datasets, config, ledger.is_rejected)
    split_s[ledger.status_s != STORED] = LEFT_OUT
    order = order_on_disk(ledger.facts, split_s)
    n_rejected = ledger.write_rejected(place.data_set / REJECTED_FILE)
    place.refuse_too_little_space(int(1.1 * bytes_of_sets(ledger.facts["n_atoms"][order]).sum()))
    census = Census(len(ledger.datasets))
    written = _write_shards(place, ledger, split_s, order, census, config, progress)
    for split, (content, _) in read_lists(config).items():
        (place.data_set / f"split_list.{split}.txt").write_bytes(content)
    manifest = Manifest(
        datasets=ledger.datasets,
        descriptions=describe(ledger, split_s, census, n_rejected, stated, conversion(config)),
        shards={split: writer.shards for split, writer in written.items()},
        blocks={split: writer.blocks for split, writer in written.items()},
        sets_sha256=_write_rows(place.data_set, ledger.facts, split_s, order),
        storage=LocalFolder(place.out),
    )
    manifest.save(place.data_set)
    place.move_into_place(overwrite)
    return manifest


def _write_shards(
    place: Workplace,
    ledger: Ledger,
    split_s: np.ndarray,
    order: np.ndarray,
    census: Census,
    config: DataConfig,
    progress: Progress | None,
) -> dict[str, ShardWriter]:
    """Shuffle through buckets on disk, each a run of whole blocks, and write their blocks."""
    starts = _block_starts(split_s[order], config.block_sets)
    may_cut_s = np.zeros(len(order), bool)
    may_cut_s[starts] = True
    bounds = bucket_bounds(bytes_of_sets(ledger.facts["n_atoms"][order]), may_cut_s)
    place_s = np.full(len(split_s), -1, np.int64)
    place_s[order] = np.arange(len(order))
    buckets = distribute(ledger.pieces, place_s, ledger.dataset_maps, bounds, place.buckets)
    writers = {split: ShardWriter(place.data_set, split, config.blocks_per_shard) for split in SPLITS}
    edges = np.append(starts, len(order))
    for path, first, stop in zip(buckets, bounds[:-1], bounds[1:], strict=True):
        lot, _ = load_bucket(path)
        path.unlink()
        census.add(lot)
        inside = edges[np.searchsorted(edges, first) : np.searchsorted(edges, stop, side="right")]
        for start, end in pairwise(inside.tolist()):
            writers[SPLITS[split_s[order[start]]]].add(lot.take(np.arange(start, end) - first))
            if progress is not None:
                progress("writing", end, len(order))
    for writer in writers.values():
        writer.finish()
    return writers


def _block_starts(split_of_place: np.ndarray, block_sets: int) -> np.ndarray:
    """Places of the first sets of all blocks; each split has blocks of its own."""
    bounds = np.searchsorted(split_of_place, np.arange(len(SPLITS) + 1))
    return np.concatenate([np.arange(start, stop, block_sets) for start, stop in pairwise(bounds.tolist())])


def _write_rows(folder: Path, facts: np.ndarray, split_s: np.ndarray, order: np.ndarray) -> dict[str, str]:
    """The rows' files; their sha256 by split."""
    digests = {}
    for number, split in enumerate(SPLITS):
        own = facts[order[split_s[order] == number]]
        rows = np.zeros(len(own), SET_DTYPE)
        for name in SET_DTYPE.names or ():
            rows[name] = own[name]
        data = encode_rows(rows)
        (folder / sets_file(split)).write_bytes(data)
        digests[split] = hashlib.sha256(data).hexdigest()
    return digests
