"""What studies in one ``runs`` folder have finished for each other: nodes of one id are one result.

A node that another study has finished is taken from that study's folder, neither copied nor run again. One
that another study is running now is waited for by a person: nothing runs the same node twice at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

from adit_scale.errors import AditError, ConfigError
from adit_scale.jobs.attempts import ATTEMPTS, LEDGER
from adit_scale.jobs.node import DONE, NODE, NodeFolder, is_done, is_running
from launchers.queue import SlurmSilent, in_queue

FOLDER = re.compile(r"(shards|autoencoder|reference|diffusion|evaluation)-(?:.*-)?([0-9a-f]{8})")


class Twins:
    """Node folders of all studies in ``runs``, by the first characters of their ids.

    own: the study that looks; its folders come first, under whatever label the node had there.
    """

    def __init__(self, runs: Path, own: Path) -> None:
        self._own = own
        self._folders: dict[tuple[str, str], list[Path]] = {}
        studies = sorted(runs.iterdir(), key=lambda s: (s != own, s.name)) if runs.is_dir() else []
        for study in studies:
            for folder in sorted(study.iterdir()) if study.is_dir() else []:
                if found := FOLDER.fullmatch(folder.name):
                    self._folders.setdefault((found[1], found[2]), []).append(folder)

    def finished(self, kind: str, id_: str, inputs: Mapping[str, Path], place: Path) -> Path | None:
        """Where the node is done, other than at ``place``; None where it was begun at ``place``, or nowhere.

        inputs: folders that it would be made from here, all done.
        """
        if (place / DONE).is_file() or (place / ATTEMPTS).is_file() or (place / LEDGER).is_file():
            return None
        for folder in self._of(kind, id_):
            if folder != place and is_done(folder, id_, inputs, False):
                return folder
        return None

    def running(self, kind: str, id_: str, queued: Callable[[Path], Collection[str]]) -> Path | None:
        """Where another study runs the node now, or has it in SLURM's queue.

        queued: names of the node folders that SLURM has jobs for, of the study in a folder.
        """
        for folder in self._of(kind, id_):
            if folder.parent == self._own or (folder / DONE).is_file():
                continue
            if is_running(folder) or ((folder / LEDGER).is_file() and folder.name in queued(folder.parent)):
                return folder
        return None

    def _of(self, kind: str, id_: str) -> Iterable[Path]:
        for folder in self._folders.get((kind, id_[:8]), ()):
            try:
                if (folder / NODE).is_file() and NodeFolder.load(folder).id == id_:
                    yield folder
            except AditError:  # damaged: its own study will say so
                continue


def check_not_running(runs: Path, own: Path, nodes: Sequence[tuple[str, str, str]]) -> None:
    """Raises ConfigError where another study runs one of these nodes now: (kind, id, name) of each."""
    twins, queued = Twins(runs, own), cache(_queued)
    for kind, id_, name in nodes:
        if (folder := twins.running(kind, id_, queued)) is not None:
            raise ConfigError(
                f"{name} is being run by study {folder.parent.name} now ({folder}); launch again when it is "
                "done, which takes it from there, or run it here too with sweep.reuse=false"
            )


def _queued(study: Path) -> set[str]:
    """Node folders that SLURM has jobs for; none where there is no SLURM to ask."""
    try:
        return {job.node for job in in_queue(study).values()}
    except SlurmSilent:
        return set()
