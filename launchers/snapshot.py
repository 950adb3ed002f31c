"""The code that a study's jobs run: a copy made when it is submitted, so that later edits change nothing.

A copy is a folder RUNS/STUDY/code/<hash of paths and contents>, made once however often the same code is
submitted. It holds the two packages, ``launch.py``, ``configs`` and ``pyproject.toml`` as they are on the
disk; ``code.json`` says where they came from when the copy was made, ``DIFF.patch`` how they differed from
that commit. Jobs run with the folder as working directory and first on PYTHONPATH, before any installed copy.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
PACKAGES = ("adit_scale", "launchers")
BESIDE = ("configs", "launch.py", "pyproject.toml")  # of a checkout; an installation has the packages alone
# Of files that git does not know yet; core dumps, notebooks and data stay where they are.
SUFFIXES = (".py", ".yaml", ".json", ".html", ".css", ".js", ".sh", ".toml")

PLAIN_DIFF = ("--binary", "--no-color", "--no-ext-diff", "--no-textconv")  # whatever the user's git does


@dataclass(frozen=True)
class CodeRecord:
    """A copy of the code. tree: sha256 over its files' paths and contents.

    git_sha: the commit it was copied from, "" outside a git checkout. dirty: the copied files differ from it.
    """

    path: Path
    tree: str
    git_sha: str
    dirty: bool


@dataclass(frozen=True)
class _Code:
    files: Mapping[str, bytes]
    git_sha: str = ""
    dirty: bool = False
    patch: bytes = b""

    @property
    def about(self) -> dict[str, Any]:
        digest = hashlib.sha256()
        for name in sorted(self.files):
            digest.update(os.fsencode(name) + b"\0" + hashlib.sha256(self.files[name]).digest())
        return {"tree": digest.hexdigest(), "git_sha": self.git_sha, "dirty": self.dirty}


def snapshot_code(study_folder: Path, project: Path = PROJECT) -> CodeRecord:
    """Copy the code of ``project`` below ``study_folder``; nothing is written where that copy stands already.

    Any number of launchers may do this at once. Raises OSError where a file cannot be read or written.
    """
    code = _read(project)
    about = code.about
    path = study_folder.absolute() / "code" / about["tree"][:16]
    created = {"created": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    notes = {"code.json": (json.dumps(about | created, indent=1) + "\n").encode()}
    if code.patch:
        notes["DIFF.patch"] = code.patch
    _keep(path, code.files, notes)
    return CodeRecord(path, **about)


def code_record(project: Path = PROJECT) -> dict[str, Any]:
    """tree, git_sha and dirty of the code as it stands, for jobs that run it in place."""
    return _read(project).about


def _read(project: Path) -> _Code:
    ours = ("--", *PACKAGES, *BESIDE)
    listed = _git(project, "ls-files", "-z", *ours) if (project / ".git").exists() else None
    if listed is None:
        return _Code(_contents(project, _walked(project)))
    others = _git(project, "ls-files", "-z", "--others", "--exclude-standard", *ours)
    new = [name for name in _names(others) if name.endswith(SUFFIXES)]
    sha = (_git(project, "rev-parse", "--verify", "HEAD") or b"").decode().strip()
    patch = _git(project, "diff", "HEAD", *PLAIN_DIFF, *ours) or b""
    dirty = bool(patch or new or not sha)
    return _Code(_contents(project, [*_names(listed), *new]), sha, dirty, patch)


def _contents(project: Path, names: Iterable[str]) -> dict[str, bytes]:
    """Without those that git lists and are no longer there."""
    return {name: (project / name).read_bytes() for name in names if (project / name).is_file()}


def _git(project: Path, *arguments: str) -> bytes | None:
    """What git prints; None without git, and where it refuses."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(project), *arguments], capture_output=True, env=environment, check=False
        )
    except OSError:  # no git here
        return None
    return done.stdout if done.returncode == 0 else None


def _names(listed: bytes | None) -> list[str]:
    return [os.fsdecode(name) for name in (listed or b"").split(b"\0") if name]


def _walked(project: Path) -> list[str]:
    """Every file, where there is no git to ask: of a checkout, or of installed packages."""
    roots = [project / name for name in PACKAGES]
    if (project / "pyproject.toml").is_file():
        roots += [project / name for name in BESIDE]
    paths = (path for root in roots for path in (root.rglob("*") if root.is_dir() else [root]))
    found = (path.relative_to(project) for path in paths if path.is_file() and path.suffix != ".pyc")
    return [path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts)]


def _keep(folder: Path, files: Mapping[str, bytes], notes: Mapping[str, bytes]) -> None:
    """Whole or not at all: written beside its place and renamed into it. The first one's notes stay."""
    if not (folder / "code.json").is_file():
        files = {**files, **notes}
    missing = [name for name in files if not (folder / name).is_file()]
    if not missing:
        return
    part = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        for name in missing:
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            (part / name).write_bytes(files[name])
        if folder.is_dir():  # clusters delete what nobody has read for weeks
            for name in missing:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (part / name).replace(folder / name)
        else:
            part.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another launcher was quicker
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
