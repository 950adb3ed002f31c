"""A folder of samples: what is drawn, one file a batch, and the samples read back.

    sampling.json             what is drawn: settings, conditions, digests of the weights
    parts/000017.safetensors  one batch, as decoded (SampleColumns)
    DONE.json                 counts, reasons, files: once every part is there (sample_files.py)

A part is renamed into place when it is whole on disk, so a killed process loses the batches it was at and no
other. A part knows what it belongs to and its own digest: one of other settings, or a damaged one, is told.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from adit_scale.atoms import CRYSTAL, DOMAIN_NAMES, MAX_ATOMIC_NUMBER, AtomSet
from adit_scale.diffusion.generate import GeneratedBatch
from adit_scale.errors import ConfigError, DataError
from adit_scale.evaluation.decode import Invalid, atomic_numbers, crystal_from_decoded, molecule_from_decoded

FORMAT_VERSION = 1
SETTINGS, PARTS, DONE = "sampling.json", "parts", "DONE.json"
DATASET = "sampled"
Samples = dict[int, list[AtomSet | Invalid]]
_DTYPES = {
    "index_s": "int64",
    "offsets": "int64",
    "spacegroup_s": "int16",
    "numbers_t": "uint8",
    "positions_t3": "float32",
    "fractional_t3": "float32",
    "lengths_s3": "float32",
    "angles_s3": "float32",
}


class _Unusable(Exception):
    """Why a part cannot be used, in a few words."""


@dataclass(frozen=True)
class SampleColumns:
    """S samples of one domain with T atoms end to end, as the autoencoder decoded them.

    index_s: ``(S,)`` number of each within its domain. offsets: ``(S+1,)``, first atom of each, then T.
    spacegroup_s: ``(S,)`` the label it was drawn with, 0 = none. numbers_t: ``(T,)`` uint8, 0 where a logit
    was not finite. positions_t3: angstrom. fractional_t3: not wrapped. lengths_s3: angstrom. angles_s3:
    radians. The latter four float32, NaN kept.
    """

    domain: int
    index_s: np.ndarray
    offsets: np.ndarray
    spacegroup_s: np.ndarray
    numbers_t: np.ndarray
    positions_t3: np.ndarray
    fractional_t3: np.ndarray
    lengths_s3: np.ndarray
    angles_s3: np.ndarray

    def __len__(self) -> int:
        return len(self.index_s)

    @staticmethod
    def from_batch(batch: GeneratedBatch, spacegroup_s: np.ndarray | None = None) -> SampleColumns:
        """The real samples of a batch; its padding is left out."""
        n_sets = len(batch.index_s)
        offsets = batch.layout.offsets[: n_sets + 1].numpy().astype(np.int64)
        n_atoms = int(offsets[-1])
        decoded = {
            name: tensor.detach().cpu().float().numpy() for name, tensor in vars(batch.decoded).items()
        }
        return SampleColumns(
            domain=int(batch.domain_s[0]),
            index_s=batch.index_s.numpy().astype(np.int64),
            offsets=offsets,
            spacegroup_s=np.zeros(n_sets, np.int16)
            if spacegroup_s is None
            else spacegroup_s.astype(np.int16),
            numbers_t=atomic_numbers(decoded["atom_type_logits_t100"][:n_atoms]).astype(np.uint8),
            positions_t3=decoded["positions_t3"][:n_atoms],
            fractional_t3=decoded["fractional_t3"][:n_atoms],
            lengths_s3=decoded["lengths_s3"][:n_sets],
            angles_s3=decoded["angles_s3"][:n_sets],
        )

    def arrays(self) -> dict[str, np.ndarray]:
        return {name: np.ascontiguousarray(getattr(self, name), _DTYPES[name]) for name in _DTYPES}

    def to_sets(self) -> list[AtomSet | Invalid]:
        """One entry a sample, in this order; ids such as ``crystal-17``. Float64."""
        name = DOMAIN_NAMES[self.domain]
        sets: list[AtomSet | Invalid] = []
        for s, index in enumerate(self.index_s.tolist()):
            atoms = slice(int(self.offsets[s]), int(self.offsets[s + 1]))
            numbers, id_ = self.numbers_t[atoms].astype(np.int64), f"{name}-{index}"
            if self.domain == CRYSTAL:
                places = self.fractional_t3[atoms].astype(np.float64)
                cell = self.lengths_s3[s].astype(np.float64), self.angles_s3[s].astype(np.float64)
                sets.append(crystal_from_decoded(numbers, places, *cell, DATASET, id_))
            else:
                places = self.positions_t3[atoms].astype(np.float64)
                sets.append(molecule_from_decoded(numbers, places, self.domain, DATASET, id_))
        return sets


class SampleFolder:
    """The folder ``path``; ``record`` is what its sampling.json says is drawn.

    record: plain values by key, of any depth; it holds "samples", the number a domain by name, and "parts",
    the number of batches. Two folders of one record hold the same samples.
    """

    def __init__(self, path: Path, record: Mapping[str, Any]) -> None:
        self.path, self.record = path, dict(record)
        text = json.dumps([FORMAT_VERSION, self.record], sort_keys=True)
        self.identity = hashlib.sha256(text.encode()).hexdigest()

    @staticmethod
    def begin(
        path: Path, record: Mapping[str, Any], about: Mapping[str, Any], start_over: bool = False
    ) -> SampleFolder:
        """A new folder, or one that was begun with the same record. Called by every rank.

        about: what is also worth knowing (versions, paths); it decides nothing. start_over: throw samples of
        another record away, where the caller knows that the folder is theirs alone.
        Raises ConfigError for a folder that holds something else, naming both values of what differs.
        """
        folder = SampleFolder(path, record)
        if start_over and (path / SETTINGS).is_file() and SampleFolder.open(path).identity != folder.identity:
            shutil.rmtree(path)
        if not (path / SETTINGS).is_file():
            _refuse_used(path)
            (path / PARTS).mkdir(parents=True, exist_ok=True)
            tree = {"format_version": FORMAT_VERSION, "draws": folder.record, "about": dict(about)}
            write_synced(path / SETTINGS, (json.dumps(tree, indent=1) + "\n").encode())
        for name, (found, asked) in _differences(SampleFolder.open(path).record, folder.record):
            key = name.removeprefix("settings.")
            raise ConfigError(
                f"{path}: holds samples drawn with {key}={found}, not {key}={asked}; expected the same "
                "to go on with them, or another folder (out=...)"
            )
        (path / PARTS).mkdir(exist_ok=True)
        return folder

    @staticmethod
    def open(path: Path) -> SampleFolder:
        """Raises DataError where ``path`` holds no samples, or samples of another format."""
        file = path / SETTINGS
        if not file.is_file():
            raise DataError(f"{file}: no such file; expected a folder that `adit sample out={path}` made")
        try:
            tree = json.loads(file.read_text(encoding="utf-8"))
            version, record = tree["format_version"], tree["draws"]
            sizes = {"parts": int(record["parts"]), **{k: int(n) for k, n in record["samples"].items()}}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{file}: damaged ({error!r}); remove the folder and draw again") from error
        if version != FORMAT_VERSION:
            raise DataError(f"{file}: format version {version}, expected {FORMAT_VERSION}; draw again")
        if not sizes.keys() - {"parts"} <= set(DOMAIN_NAMES.values()) or min(sizes.values()) < 0:
            raise DataError(f"{file}: damaged ({sizes}); remove the folder and draw again")
        return SampleFolder(path, record)

    @property
    def n_parts(self) -> int:
        return int(self.record["parts"])

    @property
    def n_samples(self) -> dict[int, int]:
        """By domain."""
        return {
            d: int(self.record["samples"][n]) for d, n in DOMAIN_NAMES.items() if n in self.record["samples"]
        }

    def part(self, number: int) -> Path:
        return self.path / PARTS / f"{number:06d}.safetensors"

    def missing(self) -> list[int]:
        """Numbers of the parts that are not there; what is in the files is not looked at."""
        return [number for number in range(self.n_parts) if not self.part(number).is_file()]

    def fault(self, number: int) -> str | None:
        """Why a part that is there cannot be used; None where it can."""
        try:
            self._load(number)
        except _Unusable as fault:
            return str(fault)
        return None

    def write(self, number: int, columns: SampleColumns) -> None:
        """One part; it is on disk when this returns. Raises OSError."""
        arrays = columns.arrays()
        meta = {
            "of": self.identity,
            "number": str(number),
            "domain": str(columns.domain),
            "sha256": _digest(columns.domain, arrays),
        }
        write_synced(self.part(number), save(arrays, metadata=meta))

    def read(self, number: int) -> SampleColumns:
        """Raises DataError for a part that is missing, damaged, or of other samples."""
        try:
            return self._load(number)
        except _Unusable as fault:
            raise DataError(f"{self.part(number)}: {fault}; run the same `adit sample` again") from fault

    def _load(self, number: int) -> SampleColumns:
        try:
            with safe_open(self.part(number), framework="numpy") as file:
                meta = file.metadata() or {}
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except FileNotFoundError as error:
            raise _Unusable("missing") from error
        except (SafetensorError, OSError, ValueError, TypeError) as error:
            raise _Unusable(f"cannot be read ({error})") from error
        if (meta.get("of"), meta.get("number")) != (self.identity, str(number)):
            raise _Unusable("belongs to other samples than sampling.json describes")
        domain = int(meta["domain"]) if meta.get("domain", "").isdecimal() else 0
        if {
            name: str(array.dtype) for name, array in arrays.items()
        } != _DTYPES or domain not in DOMAIN_NAMES:
            raise _Unusable("is not a part of samples")
        if _digest(domain, arrays) != meta.get("sha256"):
            raise _Unusable("its values are not those that were written")
        return SampleColumns(domain, **arrays)

    def remove_leftovers(self) -> None:
        """Files of writers that were killed. Only while nothing draws into this folder."""
        for left in [*self.path.glob(".*.part"), *(self.path / PARTS).glob(".*.part")]:
            left.unlink(missing_ok=True)

    def columns(self) -> dict[int, SampleColumns]:
        """All samples of each domain, by their numbers. Raises DataError naming what is missing."""
        if missing := self.missing():
            raise DataError(
                f"{self.path}: {len(missing)} of {self.n_parts} parts are missing, the first "
                f"{self.part(missing[0]).name}; run the same `adit sample` again to draw them"
            )
        by_domain: dict[int, list[SampleColumns]] = {domain: [] for domain in self.n_samples}
        for number in range(self.n_parts):
            one = self.read(number)
            by_domain.setdefault(one.domain, []).append(one)
        found = {domain: _in_order(domain, parts) for domain, parts in by_domain.items()}
        for domain, n in self.n_samples.items():
            if found[domain].index_s.tolist() != list(range(n)):
                raise DataError(
                    f"{self.path}: its parts do not hold {DOMAIN_NAMES[domain]}s 0 to {n - 1}, each once; "
                    "remove the folder and draw again"
                )
        return found


def read_samples(folder: Path) -> Samples:
    """The samples of a finished folder, by domain, in the order of their numbers.

    Raises DataError naming what is missing, damaged or of other samples.
    """
    columns = SampleFolder.open(Path(folder)).columns()
    return {domain: found.to_sets() for domain, found in columns.items()}


def samples_digest(columns: Mapping[int, SampleColumns]) -> str:
    """sha256 over every value of all samples in order: the same bits, however they were batched."""
    found = hashlib.sha256()
    for domain in sorted(columns):
        found.update(_digest(domain, columns[domain].arrays()).encode())
    return found.hexdigest()


def write_synced(path: Path, data: bytes) -> None:
    """The file appears with all its bytes, on disk, or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _in_order(domain: int, parts: list[SampleColumns]) -> SampleColumns:
    """Samples of several parts, by their numbers."""
    joined = {
        name: np.concatenate([getattr(one, name) for one in parts])
        if parts
        else np.zeros((0, 3) if name.endswith("3") else 0, dtype)
        for name, dtype in _DTYPES.items()
        if name != "offsets"
    }
    sizes_s = np.concatenate([np.diff(one.offsets) for one in parts] or [np.zeros(0, np.int64)])
    order = np.argsort(joined["index_s"], kind="stable")
    starts = (np.cumsum(sizes_s) - sizes_s)[order]
    offsets = np.concatenate([[0], np.cumsum(sizes_s[order])]).astype(np.int64)
    atom = np.repeat(starts - offsets[:-1], sizes_s[order]) + np.arange(offsets[-1])
    taken = {name: a[atom] if "_t" in name else a[order] for name, a in joined.items()}
    return SampleColumns(domain, offsets=offsets, **taken)


def _digest(domain: int, arrays: Mapping[str, np.ndarray]) -> str:
    found = hashlib.sha256(str(domain).encode())
    for name in sorted(arrays):
        found.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        found.update(np.ascontiguousarray(arrays[name]).view(np.uint8).data)
    return found.hexdigest()


def _refuse_used(path: Path) -> None:
    """A log or a note beside the samples is no harm; anything else might be lost work of another kind."""
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{path}: is a file; expected a folder for the samples (out=...)")
    others = sorted(p.name for p in path.iterdir()) if path.is_dir() else []
    others = [name for name in others if not name.endswith((".log", ".txt")) and not name.startswith(".")]
    if others and others != [PARTS]:
        raise ConfigError(f"{path}: holds {others[0]} and no samples; expected a new folder (out=...)")


def _differences(found: Mapping[str, Any], asked: Mapping[str, Any]) -> Iterable[tuple[str, tuple[Any, Any]]]:
    """What differs, by dotted key, ours first; a key that is missing is None."""
    flat_found, flat_asked = dict(_flat(found)), dict(_flat(asked))
    for key in [*flat_asked, *(key for key in flat_found if key not in flat_asked)]:
        if flat_found.get(key) != flat_asked.get(key):
            yield key, (flat_found.get(key), flat_asked.get(key))


def _flat(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


assert {f.name for f in fields(SampleColumns)} == {"domain", *_DTYPES}
assert np.iinfo(_DTYPES["numbers_t"]).max >= MAX_ATOMIC_NUMBER
