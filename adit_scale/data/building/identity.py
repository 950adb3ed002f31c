"""What a data set follows from: its sources' bytes and how they are converted. Light to import."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adit_scale.data.config import DataConfig
from adit_scale.errors import DataError

# Settings that decide which structures a reader gives, and how they are compared and keyed.
STRUCTURES = (
    "split_salt",
    "max_atoms",
    "conformers",
    "remove_hydrogens",
    "spacegroups",
    "symprec_angstrom",
    "qm9_uncharacterized",
)
# Settings that decide what becomes of them.
ARRANGEMENT = (
    "validation_fraction",
    "test_fraction",
    "split_by",
    "deduplicate",
    "block_sets",
    "blocks_per_shard",
)


def conversion(config: DataConfig) -> dict[str, Any]:
    """The settings that decide the shards' bytes; split lists stand by their contents.

    Raises DataError where a list cannot be read.
    """
    settings = {key: getattr(config, key) for key in sorted(STRUCTURES + ARRANGEMENT)}
    return {**settings, "split_lists": {split: digest for split, (_, digest) in read_lists(config).items()}}


def read_lists(config: DataConfig) -> dict[str, tuple[bytes, str]]:
    """Contents and sha256 of the split lists, by split. Raises DataError where one cannot be read."""
    found = {}
    for split, place in sorted(config.split_lists.items()):
        try:
            content = Path(place).read_bytes()
        except OSError as error:
            raise DataError(f"data.split_lists.{split}: {place}: {error.strerror}") from error
        found[split] = (content, hashlib.sha256(content).hexdigest())
    return found


def source_sha256(path: Path) -> str:
    """sha256 of a file; of a folder, that of its files' digests by name. Raises DataError when missing.

    What a folder's reader passes over (hidden files) is passed over here.
    """
    if path.is_dir():
        names = sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())
        shown = [n for n in names if not any(part.startswith(".") for part in n.split("/"))]
        table = [[name, _file_sha256(path / name)] for name in shown]
        return hashlib.sha256(json.dumps(table).encode()).hexdigest()
    if not path.is_file():
        raise DataError(f"{path}: no such file; check data.sources")
    return _file_sha256(path)


def refuse_repeated(sources: Sequence[tuple[str, str, Path]]) -> None:
    """sources: (data set, the name its file alone would give it, path) of each.

    Files that only happen to be called alike are no one data set. Raises DataError.
    """
    if not sources:
        raise DataError("no sources; expected at least one file or folder")
    paths = Counter(path.absolute() for _, _, path in sources)
    for path, count in paths.items():
        if count > 1:
            raise DataError(f"{path}: named {count} times among the sources; name it once")
    names = Counter(name for name, _, _ in sources)
    for name, count in names.items():
        if count > 1 and all(bare == name for other, bare, _ in sources if other == name):
            raise DataError(
                f"two sources are called {name!r}; data set names must differ: rename one file, or write "
                f"NAME=PATH for each (one NAME for several files makes them one data set)"
            )


def _file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    return digest.hexdigest()
