"""Structures to be scored, from whatever holds them: a folder of samples, shards, any file `adit data` reads.

Real and generated structures come by one way, so that they are scored by one code. A structure of a file that
cannot be read is an invalid sample with its reason: it stays in the denominator.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from adit_scale.atoms import CRYSTAL, DOMAIN_NAMES, MOLECULE, AtomSet
from adit_scale.data.config import SPLITS, DataConfig
from adit_scale.data.loader import reference_sets
from adit_scale.data.manifest import MANIFEST_FILE, open_manifest
from adit_scale.data.shards import ShardReader
from adit_scale.data.sources import Rejected, Source, read_source
from adit_scale.errors import ConfigError, DataError
from adit_scale.evaluation.decode import Invalid
from adit_scale.evaluation.samples import SETTINGS, read_samples

Sample = AtomSet | Invalid
ALL = 1 << 40  # more than any split holds
_SETS_AT_ONCE = 20_000


def read_structures(
    word: str, limit: int = 0, split: str = "test", domains: Sequence[int] = (MOLECULE, CRYSTAL)
) -> dict[int, list[Sample]]:
    """By domain, in the order of their source.

    word: a folder that `adit sample` made (or one that holds it as ``samples``), a folder or address of
    shards, or a source as of `adit data build` (PATH or NAME=PATH). limit: the first ones of each domain; 0
    takes all. split: of shards. Raises DataError or ConfigError where there is nothing to score.
    """
    path = Path(word)
    for folder in (path, path / "samples"):
        if (folder / SETTINGS).is_file():
            found = read_samples(folder)
            break
    else:
        if is_shards(word):
            found = _of_shards(word, split, domains, limit)
        else:
            found = _of_source(Source.from_word(word), limit, domains)
    chosen = {d: sets[: limit or ALL] for d, sets in found.items() if d in domains and sets}
    if not chosen:
        names = " or ".join(DOMAIN_NAMES[d] for d in domains)
        raise DataError(f"{word}: no {names} to score; expected samples, shards or a file of structures")
    return chosen


def is_shards(word: str) -> bool:
    """Whether it names shards: an address, or a folder with a manifest."""
    return "://" in word or (Path(word) / MANIFEST_FILE).is_file()


def _of_shards(word: str, split: str, domains: Sequence[int], limit: int) -> dict[int, list[Sample]]:
    if split not in SPLITS:
        raise ConfigError(f"split is {split!r}; expected one of {', '.join(SPLITS)}")
    data = DataConfig(shards=word)
    return {domain: [*reference_sets(data, split, domain, limit or ALL)] for domain in domains}


def _of_source(source: Source, limit: int, domains: Sequence[int]) -> dict[int, list[Sample]]:
    """Spacegroups are the judges' to find, by their own tolerances."""
    if source.path.is_dir() and not any(source.path.iterdir()):
        raise DataError(f"{source.path}: empty folder; expected samples, shards or files of structures")
    stream = read_source(source, DataConfig(spacegroups="stated"))
    # With a limit of each domain, a file of one domain need not be read to its end.
    items = list(islice(stream, limit)) if limit and len(domains) == 1 else list(stream)
    read = [item for item in items if isinstance(item, AtomSet)]
    if not read:
        first = next((item.reason for item in items if isinstance(item, Rejected)), "it holds none")
        raise DataError(f"{source.path}: no structure can be read ({first}); expected a file of structures")
    n_crystals = sum(item.periodic for item in read)
    # What cannot be read has no cell to tell by: it counts with the kind that the file has most of.
    usual = CRYSTAL if 2 * n_crystals > len(read) else MOLECULE
    found: dict[int, list[Sample]] = {MOLECULE: [], CRYSTAL: []}
    for item in items:
        if isinstance(item, AtomSet):
            found[CRYSTAL if item.periodic else MOLECULE].append(item)
        else:
            reason = re.sub(r"\d+(\.\d+)?", "#", item.reason)[:80]  # few different reasons
            nothing = np.zeros(0, dtype=np.int64)
            found[usual].append(Invalid(usual, f"cannot be read: {reason}", nothing, item.id))
    return found


def training_chunks(word: str | DataConfig) -> Callable[[int], Iterator[list[AtomSet]]]:
    """What novelty is judged against, by domain, a bounded number at a time: the training split of shards (an
    address, a folder or their settings), or every structure of a source."""
    if isinstance(word, DataConfig) or is_shards(word):
        manifest = open_manifest(word if isinstance(word, DataConfig) else DataConfig(shards=word))
        reader = ShardReader(manifest, "train")

        def of_shards(domain: int) -> Iterator[list[AtomSet]]:
            for first, rows in manifest.split("train").chunks():
                chosen = first + np.flatnonzero(rows["domain"] == domain)
                for begin in range(0, len(chosen), _SETS_AT_ONCE):
                    yield reader.read_sets(chosen[begin : begin + _SETS_AT_ONCE])

        return of_shards
    found = _of_source(Source.from_word(word), 0, (MOLECULE, CRYSTAL))

    def of_source(domain: int) -> Iterator[list[AtomSet]]:
        yield [item for item in found[domain] if isinstance(item, AtomSet)]

    return of_source


def fingerprint_of(word: str) -> str:
    """What identifies shards without reading them; "" for anything else."""
    return open_manifest(DataConfig(shards=word)).fingerprint if is_shards(word) else ""
