"""That the bytes are those the manifest names: at each read of a block, and for a whole data set at once."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from adit_scale.atoms import MAX_ATOMIC_NUMBER
from adit_scale.data.blocks import RawBlock, parse_block
from adit_scale.data.columns import SetColumns
from adit_scale.data.manifest import SPLITS, Block, Manifest
from adit_scale.data.sources.structures import ELEMENT_SYMBOLS, MAX_SPACEGROUP
from adit_scale.data.storage import LocalFolder, Storage
from adit_scale.errors import DataError

CURE = "copy or build the shard again"
_LISTED = 10
_TOGETHER = 16  # blocks asked for at once: what a far server takes long for
Progress = Callable[[int, int], None]


class BlockSource:
    """The blocks of one split, each checked against its digest whenever it is read."""

    def __init__(self, manifest: Manifest, split: str) -> None:
        self._blocks = manifest.blocks[split]
        self._manifest = manifest
        self._storage = manifest.storage
        self._shard_bytes = {shard.file: shard.n_bytes for shard in manifest.shards[split]}
        self._right_length: set[str] = set()

    def read(self, numbers: Sequence[int]) -> Iterator[RawBlock]:
        """Blocks in the given order, a few at a time.

        Raises DataError, with shard, block and digests, when a shard is missing, cut or altered.
        """
        for start in range(0, len(numbers), _TOGETHER):
            several = numbers[start : start + _TOGETHER]
            for number in several:
                self._check_length(self._blocks[number].shard)
            ranges = [(b.shard, b.start, b.stop) for b in (self._blocks[number] for number in several)]
            for number, data in zip(several, self._storage.read_ranges(ranges), strict=True):
                yield self.parse(number, self._checked(number, data))

    def parse(self, number: int, data: bytes) -> RawBlock:
        """The members of a block whose digest has been checked."""
        block = self._blocks[number]
        try:
            raw = parse_block(data)
        except DataError as error:
            raise DataError(f"{self._where(block)}: {error}") from error
        if (raw.key, raw.n_sets) != (block.key, block.n_sets):
            raise DataError(
                f"{self._where(block)}: holds {raw.n_sets} sets of block {raw.key}; "
                f"expected {block.n_sets}; build the shards again"
            )
        return raw

    def read_bytes(self, number: int) -> bytes:
        """A block as it lies in its shard."""
        block = self._blocks[number]
        self._check_length(block.shard)
        return self._checked(number, self._storage.read_range(block.shard, block.start, block.stop))

    def _checked(self, number: int, data: bytes) -> bytes:
        block = self._blocks[number]
        found = hashlib.sha256(data).hexdigest()
        if found != block.sha256 and self._storage.forget(block.shard, block.start, block.stop):
            data = self._storage.read_range(block.shard, block.start, block.stop)
            found = hashlib.sha256(data).hexdigest()
        if found != block.sha256:
            self._right_length.discard(block.shard)
            self._check_length(block.shard)
            raise DataError(f"{self._where(block)}: {self._digests(block.sha256, found)}; {CURE}")
        return data

    def _check_length(self, shard: str) -> None:
        if shard not in self._right_length:
            n_bytes = self._storage.size(shard)
            if n_bytes != self._shard_bytes[shard]:
                self._refuse_length(shard, n_bytes)
            self._right_length.add(shard)

    def _where(self, block: Block) -> str:
        return f"{self._storage}/{block.shard}: block {block.key}"

    def _refuse_length(self, shard: str, n_bytes: int) -> None:
        """Name the first block of a shard that is cut; where the shard is too long, the last, to its end."""
        inside = [block for block in self._blocks if block.shard == shard]
        cut = [block for block in inside if block.stop > n_bytes]
        block = cut[0] if cut else replace(inside[-1], stop=n_bytes)
        found = hashlib.sha256(self._storage.read_range(shard, block.start, block.stop)).hexdigest()
        raise DataError(
            f"{self._where(block)}: {self._digests(block.sha256, found)} "
            f"({n_bytes} bytes long; expected {self._shard_bytes[shard]}); {CURE}"
        )

    def _digests(self, expected: str, found: str) -> str:
        """The two digests, and whose the found one is if another block of the data set has it."""
        others = [b for blocks in self._manifest.blocks.values() for b in blocks if b.sha256 == found]
        copied = f" (that is block {others[0].key} of {others[0].shard})" if others else ""
        return f"expected sha256 {expected}, found {found}{copied}"


def verify(place: Path | Storage, progress: Progress | None = None) -> Manifest:
    """Check everything in a data set. Raises DataError that lists up to ten things that are wrong.

    progress: called with the bytes checked so far and their number in all.
    """
    manifest = Manifest.load(place)
    damage = find_damage(manifest, progress)
    if len(damage) == 1:
        raise DataError(damage[0])
    if damage:
        more = f"; and {len(damage) - _LISTED} more" if len(damage) > _LISTED else ""
        raise DataError(f"{len(damage)} faults: " + "; ".join(damage[:_LISTED]) + more)
    return manifest


def find_damage(manifest: Manifest, progress: Progress | None = None) -> list[str]:
    """What is wrong with a data set, a line each: bytes, rows beside the shards, contents, statistics."""
    damage = _strays(manifest)
    total = sum(shard.n_bytes for split in SPLITS for shard in manifest.shards[split])
    done = 0
    statistics = _Statistics(manifest)
    for split in SPLITS:
        source, numbers = BlockSource(manifest, split), iter(range(len(manifest.blocks[split])))
        for shard in manifest.shards[split]:
            whole, before = hashlib.sha256(), len(damage)
            while True:
                number = next(numbers)
                block = manifest.blocks[split][number]
                try:
                    data = source.read_bytes(number)
                    whole.update(data)
                    raw = source.parse(number, data)
                    raw.ids()
                    damage += statistics.add(split, block, raw.columns())
                except DataError as error:
                    if str(error) not in damage:  # a shard of wrong length says so once
                        damage.append(str(error))
                done += block.stop - block.start
                if progress is not None:
                    progress(done, total)
                if block.stop == shard.n_bytes:
                    break
            if len(damage) == before and whole.hexdigest() != shard.sha256:
                found = f"expected sha256 {shard.sha256}, found {whole.hexdigest()}"
                damage.append(f"{manifest.storage}/{shard.file}: {found}; {CURE}")
    return damage or statistics.differences()


def _strays(manifest: Manifest) -> list[str]:
    """Shards in the folder that the manifest does not know: another reader would take them in."""
    if not isinstance(manifest.storage, LocalFolder):
        return []
    known = {shard.file for split in SPLITS for shard in manifest.shards[split]}
    found = sorted(path.name for path in manifest.storage.folder.glob("*.tar") if path.name not in known)
    return [f"{manifest.storage}/{name}: not in the manifest; remove it" for name in found]


class _Statistics:
    """What the blocks hold, beside what the manifest and the rows say of them."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._index = {split: manifest.split(split) for split in SPLITS}
        n = len(manifest.datasets)
        self._n_sets = np.zeros((len(SPLITS), n), np.int64)
        self._elements = np.zeros((n, 256), np.int64)
        self._atom_counts: list[Counter[int]] = [Counter() for _ in range(n)]
        self._spacegroups: list[Counter[int]] = [Counter() for _ in range(n)]

    def add(self, split: str, block: Block, columns: SetColumns) -> list[str]:
        """Count a block in; what is wrong with it."""
        where = f"{self._manifest.storage}/{block.shard}: block {block.key}"
        wrong = _unusable(columns, len(self._manifest.datasets))
        if wrong:
            return [f"{where}: {wrong}; build the shards again"]
        rows = self._index[split].rows(block.first_set, block.first_set + block.n_sets)
        dataset = columns.dataset_s.astype(np.int64)
        set_of_atom = np.repeat(dataset, columns.sizes_s)
        np.add.at(self._n_sets[SPLITS.index(split)], dataset, 1)
        np.add.at(self._elements, (set_of_atom, columns.numbers_t), 1)
        for d in np.unique(dataset):
            self._atom_counts[d].update(columns.sizes_s[dataset == d].tolist())
            self._spacegroups[d].update(columns.spacegroup_s[dataset == d].tolist())
        return [
            f"{where}: {what} differ from the rows of {split}.sets.npy; build the shards again"
            for what, row, own in (
                ("atom counts", rows["n_atoms"], columns.sizes_s),
                ("data sets", rows["dataset"], columns.dataset_s),
                ("domains", rows["domain"], columns.domain_s),
            )
            if not np.array_equal(row, own)
        ]

    def differences(self) -> list[str]:
        """Statistics in the manifest that the data do not bear out. Those it does not state are let be."""
        wrong = []
        for d, name in enumerate(self._manifest.datasets):
            stated: dict[str, Any] = self._manifest.descriptions.get(name, {})
            counted = {
                "n_sets": {split: int(n) for split, n in zip(SPLITS, self._n_sets[:, d], strict=True)},
                "atom_counts": {str(n): count for n, count in self._atom_counts[d].items()},
                "elements": {
                    ELEMENT_SYMBOLS[z]: int(self._elements[d, z]) for z in np.flatnonzero(self._elements[d])
                },
                "spacegroups": {str(n): count for n, count in self._spacegroups[d].items()},
            }
            wrong += [
                f"{self._manifest.storage}/manifest.json: {key} of {name} differ from its structures; "
                f"build the shards again"
                for key, value in counted.items()
                if key in stated and stated[key] != value
            ]
        return wrong


def _unusable(columns: SetColumns, n_datasets: int) -> str:
    """Why no model could use a block; empty where it can."""
    if not 1 <= columns.numbers_t.min() <= columns.numbers_t.max() <= MAX_ATOMIC_NUMBER:
        return f"atomic numbers {columns.numbers_t.min()} to {columns.numbers_t.max()}; expected 1 to 99"
    if columns.dataset_s.max() >= n_datasets:
        return f"data set {columns.dataset_s.max()} of {n_datasets}"
    if not 0 <= columns.spacegroup_s.min() <= columns.spacegroup_s.max() <= MAX_SPACEGROUP:
        return f"spacegroups {columns.spacegroup_s.min()} to {columns.spacegroup_s.max()}; expected 0 to 230"
    if not (np.isfinite(columns.positions_t3).all() and np.isfinite(columns.cells_s33).all()):
        return "positions or cells that are not finite"
    return ""
