"""The training crystals in the form that novelty needs, made once and kept on disk."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adit_scale.atoms import AtomSet
from adit_scale.errors import DataError
from adit_scale.evaluation.crystals.composition import Composition, reduced_composition
from adit_scale.evaluation.crystals.reduction import ReducedCell, reduce_crystal
from adit_scale.evaluation.crystals.structure import structural_fault
from adit_scale.evaluation.limited import Overrun, map_limited

_FORMAT = "adit_scale reduced crystals 1"
_BY_ATOM, _BY_CRYSTAL = ("numbers", "fractional"), ("cell", "minima")


@dataclass(frozen=True)
class ReferenceIndex:
    """cells: reduced crystals of the training set. n_crystals: how many it has; those that are no valid
    structure or cannot be reduced are compared with nothing."""

    cells: list[ReducedCell]
    n_crystals: int

    def save(self, path: Path) -> None:
        """Write as npz (no pickles), whole or not at all."""
        sizes = [(len(cell), len(cell.profile)) for cell in self.cells]
        columns: dict[str, Any] = {
            "format": np.array(_FORMAT),
            "n": np.array(self.n_crystals),
            "sizes": np.array(sizes, np.int64).reshape(-1, 2),
        }
        for name in (*_BY_ATOM, *_BY_CRYSTAL, "profile"):
            parts = [getattr(cell, name) for cell in self.cells]
            join = np.stack if name in _BY_CRYSTAL else np.concatenate
            columns[name] = join(parts) if parts else np.zeros((0, 3))
        part = path.with_name(f".{path.name}.part")
        with part.open("wb") as stream:
            np.savez(stream, **columns)
        part.replace(path)

    @staticmethod
    def load(path: Path) -> ReferenceIndex:
        """An index written by :meth:`save`. Raises DataError for anything else."""
        try:
            with np.load(path, allow_pickle=False) as file:
                if str(file["format"]) != _FORMAT:
                    raise ValueError(f"format {file['format']}")
                sizes, n = file["sizes"], int(file["n"])
                atoms, profiles = (np.cumsum(column)[:-1] for column in sizes.T)
                parts = [np.split(file[name], atoms) for name in _BY_ATOM]
                parts += [list(file["cell"]), list(file["minima"])]
                parts.append(np.split(file["profile"], profiles))
            cells = [ReducedCell(*columns) for columns in zip(*parts, strict=True)] if len(sizes) else []
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise DataError(
                f"{path}: not an index of reference crystals ({error!r}); delete it and it is made anew"
            ) from error
        return ReferenceIndex(cells, n)


def reference_index(
    crystals: Sequence[AtomSet],
    processes: int,
    limit_s: float = 10.0,
    compositions: Collection[Composition] | None = None,
    progress: Callable[[int], object] | None = None,
) -> ReferenceIndex:
    """Reduce the crystals, in ``processes`` (0: inline). compositions: only crystals of these."""
    chosen = [
        crystal
        for crystal in crystals
        if compositions is None or reduced_composition(crystal.numbers) in compositions
    ]
    usable = [crystal for crystal in chosen if structural_fault(crystal) is None]
    found = map_limited(reduce_crystal, usable, limit_s=limit_s, processes=processes, progress=progress)
    cells = [cell for cell in found if not isinstance(cell, Overrun | str)]
    return ReferenceIndex(cells, len(crystals))
