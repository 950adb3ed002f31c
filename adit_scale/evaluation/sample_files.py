"""The samples of a folder in formats that others read, and DONE.json: the last thing to appear.

Samples that are no system of atoms are in none of these files; DONE.json counts them, with their reasons.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from adit_scale.atoms import CRYSTAL, DOMAIN_NAMES, MOLECULE, AtomSet
from adit_scale.data.build import REJECTED_FILE, build_from_sets
from adit_scale.data.config import DataConfig
from adit_scale.data.formats import V2000_MAX_ATOMS, cif, extended_xyz, sdf
from adit_scale.data.manifest import MANIFEST_FILE
from adit_scale.errors import DataError
from adit_scale.evaluation.bonds import bond_orders
from adit_scale.evaluation.decode import Invalid
from adit_scale.evaluation.samples import DONE, SampleFolder, Samples, samples_digest, write_synced

FORMATS = ("extxyz", "cif", "cifs", "sdf", "shards")
LOCK = ".finish.lock"
_REASON = 80  # characters of a reason; some go on to quote the numbers of one structure
Progress = Callable[[str, int, int], object]


@dataclass
class Written:
    """What one format holds: its files, how many samples, how many were left out and why."""

    files: list[str] = field(default_factory=list)
    samples: int = 0
    left_out: Counter[str] = field(default_factory=Counter)


def finish(
    folder: SampleFolder, formats: Sequence[str] = ("extxyz",), progress: Progress | None = None
) -> dict[str, Any]:
    """Check all parts, write the formats that are not there yet, and DONE.json. Returns what it holds.

    Any number of processes may call it at once: one works, the others wait. Raises DataError where a part is
    missing or damaged, OSError where a file cannot be written.
    """
    assert set(formats) <= {*FORMATS}, formats
    with (folder.path / LOCK).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        columns = folder.columns()
        digest = samples_digest(columns)
        done = read_done(folder.path)
        if done.get("digest") != digest:
            done = {}
        missing = [name for name in formats if not _stands(folder.path, done.get("files", {}).get(name))]
        if done and not missing:
            return done
        samples = {domain: found.to_sets() for domain, found in columns.items()}
        files = dict(done.get("files", {}))
        for name in missing:
            written = _write(name, samples, folder, progress)
            files[name] = {
                "files": written.files,
                "samples": written.samples,
                "left_out": dict(written.left_out.most_common()),
            }
        done = {
            "identity": folder.identity,
            "digest": digest,
            "samples": {DOMAIN_NAMES[domain]: _counts(sets) for domain, sets in samples.items()},
            "files": files,
        }
        folder.remove_leftovers()
        write_synced(folder.path / DONE, (json.dumps(done, indent=1) + "\n").encode())
    return done


def read_done(path: Path) -> dict[str, Any]:
    """DONE.json of a folder of samples; empty where there is none or it is damaged: it is made again."""
    try:
        tree = json.loads((path / DONE).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return tree if isinstance(tree, dict) and {"digest", "samples", "files"} <= tree.keys() else {}


def _stands(path: Path, entry: Mapping[str, Any] | None) -> bool:
    return entry is not None and all((path / name).exists() for name in entry["files"])


def _counts(sets: Sequence[AtomSet | Invalid]) -> dict[str, Any]:
    reasons = Counter(one.reason for one in sets if isinstance(one, Invalid))
    return {"drawn": len(sets), "invalid": reasons.total(), "reasons": dict(reasons.most_common())}


def _write(name: str, samples: Samples, folder: SampleFolder, progress: Progress | None) -> Written:
    whole = {d: [one for one in sets if isinstance(one, AtomSet)] for d, sets in samples.items()}
    written = Written()
    tell = _Teller(f"writing {name}", sum(map(len, whole.values())), progress)
    if name == "extxyz":
        for domain, sets in whole.items():
            _write_text(folder.path / f"{DOMAIN_NAMES[domain]}s.extxyz", sets, extended_xyz, written, tell)
    elif name == "cif" and CRYSTAL in whole:
        _write_text(folder.path / "crystals.cif", whole[CRYSTAL], cif, written, tell)
    elif name == "cifs" and CRYSTAL in whole:
        _write_each(folder.path / "crystals", whole[CRYSTAL], written, tell)
    elif name == "sdf" and MOLECULE in whole:
        _write_text(folder.path / "molecules.sdf", whole[MOLECULE], sdf_by_distances, written, tell)
    elif name == "shards":
        _write_shards(folder, whole, written, progress)
    return written


def sdf_by_distances(atom_set: AtomSet) -> str:
    """An SDF record whose bonds are those of EDM's distance table: a look-up, which cannot hang or fail."""
    if len(atom_set) > V2000_MAX_ATOMS:  # the format's own refusal, before a table of all pairs is made
        return sdf(atom_set, ([], []))
    orders = bond_orders(atom_set.numbers, atom_set.positions)
    first, second = np.nonzero(np.triu(orders, 1))
    bonds = [(i + 1, j + 1, int(orders[i, j])) for i, j in zip(first.tolist(), second.tolist(), strict=True)]
    return sdf(atom_set, (bonds, []))


class _Teller:
    def __init__(self, stage: str, total: int, progress: Progress | None) -> None:
        self.stage, self.done, self.total, self.progress = stage, 0, total, progress

    def __call__(self) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(self.stage, self.done, self.total)


def _texts(
    sets: Iterable[AtomSet], writer: Callable[[AtomSet], str], written: Written, tell: _Teller
) -> Iterable[tuple[AtomSet, str]]:
    """Each set's text, but for those the format cannot hold, which are counted."""
    for one in sets:
        try:
            yield one, writer(one)
            written.samples += 1
        except DataError as error:  # `sampled 'crystal-17' WHY; use ..., or leave it out`
            written.left_out[
                str(error).partition(f"{one.id!r} ")[2].partition("; use ")[0] or str(error)
            ] += 1
        except np.linalg.LinAlgError:
            written.left_out["has a cell too flat to be inverted"] += 1
        tell()


def _write_text(
    path: Path, sets: list[AtomSet], writer: Callable[[AtomSet], str], written: Written, tell: _Teller
) -> None:
    text = "".join(entry for _, entry in _texts(sets, writer, written, tell))
    write_synced(path, text.encode())
    written.files.append(path.name)


def _write_each(path: Path, sets: list[AtomSet], written: Written, tell: _Teller) -> None:
    """A file a crystal, for programs that read the first structure of a file alone."""
    part = path.with_name(f".{path.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.rmtree(path, ignore_errors=True)
    part.mkdir()
    for one, text in _texts(sets, cif, written, tell):
        (part / f"{one.id}.cif").write_text(text)
    part.replace(path)
    written.files.append(path.name)


def _write_shards(
    folder: SampleFolder, whole: dict[int, list[AtomSet]], written: Written, progress: Progress | None
) -> None:
    """A data set like any other; what it cannot hold stands in its rejected.jsonl."""
    out = folder.path / "shards"
    names = {domain: f"sampled_{DOMAIN_NAMES[domain]}s" for domain, sets in whole.items() if sets}
    sets = [replace(one, dataset=name) for domain, name in names.items() for one in whole[domain]]
    if not sets:
        return
    stated = {name: {"source": "drawn from a model", "licence": "not stated"} for name in names.values()}

    def tell(stage: str, done: int, total: int | None) -> None:
        if progress is not None:
            progress(f"shards: {stage}", done, total or 0)

    config = DataConfig(spacegroups="stated", name="sampled")
    try:
        try:
            manifest = build_from_sets(sets, out, config, stated, tell, overwrite=True)
        except DataError:  # nothing of one domain can be stored; what is named in `stated` must be there
            manifest = build_from_sets(sets, out, config, {}, tell, overwrite=True)
    except DataError as error:
        written.left_out[str(error)] += len(sets)
        return
    written.files.append(f"shards/{MANIFEST_FILE}")
    written.samples = sum(manifest.n_sets(split) for split in manifest.shards)
    with (out / REJECTED_FILE).open() as stream:
        written.left_out.update(json.loads(line)["reason"][:_REASON] for line in stream)
