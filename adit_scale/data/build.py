"""Raw structures into shards: split, shuffle, write, describe. The same input gives the same bytes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from adit_scale.atoms import CRYSTAL, DOMAIN_NAMES, MOLECULE, AtomSet
from adit_scale.data.config import DataConfig
from adit_scale.data.manifest import MANIFEST_FILE, SPLITS, Manifest, SetTable, encode_set_tables
from adit_scale.data.shards import write_shards
from adit_scale.data.sources import Rejected, dataset_name, read_source
from adit_scale.data.sources.structures import ELEMENT_SYMBOLS, UnusableStructure, standardise
from adit_scale.errors import DataError

CONVERTER_VERSION = "1"
REJECTED_FILE = "rejected.jsonl"
Progress = Callable[[str, int], None]


def build(
    sources: list[Path],
    out: Path,
    config: DataConfig,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> Manifest:
    """Convert raw files into the data set folder ``out``.

    progress: called with a data set's name and the number of its structures read so far.
    overwrite: replace a data set that stands at ``out`` already.
    What is left out stands in ``out/rejected.jsonl`` with the reason.
    Raises DataError for a file that cannot be read, two files of one name, no usable structure, or an
    ``out`` that is in use.
    """
    names = [dataset_name(path) for path in sources]
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise DataError(
            f"two sources are called {repeated[0]!r}; data set names must differ: rename one file"
        )
    for path in sources:
        if not path.is_file():
            raise DataError(f"{path}: no such file; check data.sources")
    items = (item for path in sources for item in _watched(read_source(path), dataset_name(path), progress))
    descriptions = {
        name: {"source": path.name, "source_sha256": _file_sha256(path)}
        for name, path in zip(names, sources, strict=True)
    }
    return _write_data_set(items, out, config, descriptions, overwrite)


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
    items = _watched(_standardised(sets), "structures", progress)
    return _write_data_set(items, out, config, sources_meta or {}, overwrite)


def _standardised(sets: Iterable[AtomSet]) -> Iterator[AtomSet | Rejected]:
    for index, atom_set in enumerate(sets):
        try:
            yield standardise(atom_set)
        except UnusableStructure as error:
            yield Rejected(atom_set.dataset, index, atom_set.id, str(error))


def _watched(
    items: Iterable[AtomSet | Rejected], name: str, progress: Progress | None
) -> Iterator[AtomSet | Rejected]:
    for count, item in enumerate(items, start=1):
        yield item
        if progress is not None:
            progress(name, count)


def _write_data_set(
    items: Iterable[AtomSet | Rejected],
    out: Path,
    config: DataConfig,
    sources_meta: dict[str, dict[str, str]],
    overwrite: bool,
) -> Manifest:
    config.validate()
    _refuse_used(out, overwrite)
    temporary = _temporary_folder(out)  # before the reading, which may take minutes
    try:
        sets, rejected = _sift(items, config.max_atoms)
        _refuse_nothing(sets, rejected, sources_meta)
        datasets = sorted({s.dataset for s in sets})
        splits = _split_and_shuffle(sets, config)
        written = {
            split: write_shards(
                temporary, split, splits[split], datasets, config.block_sets, config.blocks_per_shard
            )
            for split in SPLITS
        }
        manifest = Manifest(
            datasets=datasets,
            descriptions=_describe(splits, datasets, rejected, sources_meta),
            shards={split: shards for split, (shards, _) in written.items()},
            blocks={split: blocks for split, (_, blocks) in written.items()},
            sets_npz=encode_set_tables({split: _set_table(splits[split], datasets) for split in SPLITS}),
        )
        lines = [json.dumps(asdict(item), sort_keys=True) + "\n" for item in rejected]
        (temporary / REJECTED_FILE).write_text("".join(lines))
        manifest.save(temporary)
        _move_into_place(temporary, out, overwrite)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return manifest


def _temporary_folder(out: Path) -> Path:
    """A new folder beside ``out``. Raises DataError where it cannot be made."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise DataError(
            f"{out.parent}: cannot be written ({error.strerror}); choose another folder for the shards"
        ) from error


def _refuse_used(out: Path, overwrite: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / MANIFEST_FILE).is_file():
        raise DataError(f"{out}: exists and is not a data set; choose another folder")
    if not overwrite:
        raise DataError(f"{out}: holds a data set already; choose another folder or ask to overwrite it")


def _refuse_nothing(
    sets: list[AtomSet], rejected: list[Rejected], sources_meta: dict[str, dict[str, str]]
) -> None:
    """A source of which nothing is left is a mistake, not a smaller data set."""
    found = {s.dataset for s in sets}
    missing = [name for name in sorted(sources_meta) if name not in found]
    if sets and not missing:
        return
    lost = [r for r in rejected if not missing or r.source == missing[0]]
    where = f" in {sources_meta[missing[0]].get('source', missing[0])}" if missing else ""
    reason = f"the first was left out: {lost[0].reason}" if lost else "expected at least one"
    raise DataError(f"no usable structure among {len(lost)}{where}; {reason}")


def _sift(items: Iterable[AtomSet | Rejected], max_atoms: int) -> tuple[list[AtomSet], list[Rejected]]:
    """Part the usable sets from the rest; larger ones than max_atoms and repeated ids join the rest."""
    sets: list[AtomSet] = []
    rejected: list[Rejected] = []
    seen: set[tuple[str, str]] = set()
    n_read: Counter[str] = Counter()
    for item in items:
        if isinstance(item, Rejected):
            n_read[item.source] += 1
            rejected.append(item)
            continue
        n_read[item.dataset] += 1
        reason = ""
        if max_atoms and len(item) > max_atoms:
            reason = f"{len(item)} atoms; data.max_atoms is {max_atoms}"
        elif (item.dataset, item.id) in seen:
            reason = f"id {item.id!r} stands twice in {item.dataset}"
        if reason:
            rejected.append(Rejected(item.dataset, n_read[item.dataset] - 1, item.id, reason))
        else:
            seen.add((item.dataset, item.id))
            sets.append(item)
    return sets, rejected


def _split_and_shuffle(sets: list[AtomSet], config: DataConfig) -> dict[str, list[AtomSet]]:
    """Splits by a hash of (salt, data set, id), so that a set keeps its split whatever comes with it;
    each in the order of another part of the hash, which mixes the data sets."""
    keyed: dict[str, list[tuple[bytes, str, str, AtomSet]]] = {split: [] for split in SPLITS}
    for atom_set in sets:
        name = json.dumps([config.split_salt, atom_set.dataset, atom_set.id])
        digest = hashlib.sha256(name.encode()).digest()
        u = int.from_bytes(digest[:8], "big") / 2**64
        if u < config.test_fraction:
            split = "test"
        elif u < config.test_fraction + config.validation_fraction:
            split = "val"
        else:
            split = "train"
        keyed[split].append((digest[8:], atom_set.dataset, atom_set.id, atom_set))
    return {split: [row[3] for row in sorted(rows, key=lambda row: row[:3])] for split, rows in keyed.items()}


def _set_table(sets: list[AtomSet], datasets: list[str]) -> SetTable:
    index = {name: i for i, name in enumerate(datasets)}
    return SetTable(
        n_atoms=np.array([len(s) for s in sets], dtype=np.uint32),
        dataset=np.array([index[s.dataset] for s in sets], dtype=np.uint16),
        domain=np.array([CRYSTAL if s.periodic else MOLECULE for s in sets], dtype=np.uint8),
    )


def _describe(
    splits: dict[str, list[AtomSet]],
    datasets: list[str],
    rejected: list[Rejected],
    sources_meta: dict[str, dict[str, str]],
) -> dict[str, dict[str, Any]]:
    """Statistics of each data set over all its splits; histogram keys are strings, as JSON wants."""
    described: dict[str, dict[str, Any]] = {}
    for name in datasets:
        members = {split: [s for s in splits[split] if s.dataset == name] for split in SPLITS}
        own = [s for split in SPLITS for s in members[split]]
        elements = np.bincount(np.concatenate([s.numbers for s in own]))
        described[name] = {
            "source": "not stated",
            "licence": "not stated",
            **sources_meta.get(name, {}),
            "converter_version": CONVERTER_VERSION,
            "domain": "+".join(sorted({DOMAIN_NAMES[CRYSTAL if s.periodic else MOLECULE] for s in own})),
            "n_sets": {split: len(members[split]) for split in SPLITS},
            "n_rejected": sum(r.source == name for r in rejected),
            "atom_counts": _histogram(len(s) for s in own),
            "elements": {ELEMENT_SYMBOLS[z]: int(elements[z]) for z in np.flatnonzero(elements)},
            "spacegroups": _histogram(s.spacegroup for s in own),
        }
    return described


def _histogram(values: Iterable[int]) -> dict[str, int]:
    return {str(value): count for value, count in sorted(Counter(values).items())}


def _move_into_place(temporary: Path, out: Path, overwrite: bool) -> None:
    """One rename makes the whole data set appear; a reader never sees a part of it."""
    for path in temporary.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    temporary.chmod(0o755)
    _refuse_used(out, overwrite)
    if out.exists() and any(out.iterdir()):
        old = Path(tempfile.mkdtemp(prefix=f".{out.name}.old.", dir=out.parent))
        out.rename(old)
        temporary.rename(out)
        shutil.rmtree(old)
    else:
        temporary.rename(out)


def _file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
