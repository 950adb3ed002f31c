"""The copy of the code that jobs run: what is in it, where it comes from, and that it is what is imported."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import pytest

from launchers.snapshot import BESIDE, PACKAGES, PROJECT, code_record, snapshot_code

FILES = {
    "adit_scale/__init__.py": "",
    "adit_scale/model.py": "WIDTH = 64\n",
    "adit_scale/page.html": "<p>\n",
    "launchers/__init__.py": "",
    "launchers/up.sh": "true\n",
    "configs/config.yaml": "seed: 0\n",
    "launch.py": "print('launch')\n",
    "pyproject.toml": "[project]\n",
    "tests/test_model.py": "",
    "docs/method.md": "",
    "shards/demo/a.tar": "",
    ".gitignore": "__pycache__/\nadit_scale/secret.py\n",
}
COPIED = sorted(name for name in FILES if name.startswith((*PACKAGES, *BESIDE)))


@pytest.fixture
def project(tmp_path) -> Path:
    """A checkout with one commit."""
    root = tmp_path / "project"
    write(root, FILES)
    git(root, "init", "-q")
    commit(root)
    return root


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def git(root: Path, *arguments: str) -> str:
    who = ["-c", "user.name=ana", "-c", "user.email=ana@example.org"]
    done = subprocess.run(["git", *who, *arguments], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def commit(root: Path) -> str:
    git(root, "add", "-A")
    git(root, "commit", "-qm", "all")
    return git(root, "rev-parse", "HEAD")


def contents(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_clean_checkout(project, tmp_path):
    write(
        project,
        {"adit_scale/__pycache__/model.pyc": "x", "adit_scale/secret.py": "x", "launchers/core.17": "x"},
    )
    code = snapshot_code(tmp_path / "study", project)
    assert contents(code.path) == sorted([*COPIED, "code.json"])
    assert (code.git_sha, code.dirty) == (git(project, "rev-parse", "HEAD"), False)
    assert code.path == tmp_path / "study" / "code" / code.tree[:16]
    about = json.loads((code.path / "code.json").read_text())
    time.strptime(about.pop("created"), "%Y-%m-%dT%H:%M:%S%z")
    assert about == {"tree": code.tree, "git_sha": code.git_sha, "dirty": False}
    assert code_record(project) == about


def test_uncommitted_edits_and_new_files_come_along(project, tmp_path):
    clean = snapshot_code(tmp_path / "study", project)
    write(project, {"adit_scale/model.py": "WIDTH = 96\n", "adit_scale/jobs/new.py": "x = 1\n"})
    (project / "launchers" / "up.sh").unlink()
    write(project, {"docs/method.md": "not code"})
    code = snapshot_code(tmp_path / "study", project)
    assert code.dirty
    assert code.tree != clean.tree
    assert contents(code.path) == sorted(
        [*(set(COPIED) - {"launchers/up.sh"}), "adit_scale/jobs/new.py", "code.json", "DIFF.patch"]
    )
    assert (code.path / "adit_scale" / "model.py").read_text() == "WIDTH = 96\n"
    patch = (code.path / "DIFF.patch").read_text()
    assert "-WIDTH = 64\n+WIDTH = 96\n" in patch
    assert "not code" not in patch
    assert (clean.path / "adit_scale" / "model.py").read_text() == "WIDTH = 64\n"


def test_the_patch_on_the_commit_is_the_copy(project, tmp_path):
    write(project, {"adit_scale/model.py": "WIDTH = 96\n", "configs/config.yaml": ""})
    code = snapshot_code(tmp_path / "study", project)
    again = tmp_path / "again"
    git(tmp_path, "clone", "-q", str(project), str(again))
    git(again, "checkout", "-q", code.git_sha)
    git(again, "apply", str(code.path / "DIFF.patch"))
    assert snapshot_code(tmp_path / "other", again).tree == code.tree


def test_the_same_code_is_copied_once_and_its_origin_stays(project, tmp_path):
    write(project, {"adit_scale/model.py": "WIDTH = 96\n"})
    first = snapshot_code(tmp_path / "study", project)
    files = {path: path.stat().st_mtime_ns for path in first.path.rglob("*")}
    sha = commit(project)
    second = snapshot_code(tmp_path / "study", project)
    assert second.path == first.path
    assert {path: path.stat().st_mtime_ns for path in first.path.rglob("*")} == files
    assert (first.dirty, second.dirty, second.git_sha) == (True, False, sha)
    assert json.loads((first.path / "code.json").read_text())["git_sha"] == first.git_sha


def test_files_that_a_cluster_cleared_away_come_back(project, tmp_path):
    code = snapshot_code(tmp_path / "study", project)
    shutil.rmtree(code.path / "adit_scale")
    (code.path / "code.json").unlink()
    assert snapshot_code(tmp_path / "study", project) == code
    assert contents(code.path) == sorted([*COPIED, "code.json"])
    assert contents(code.path.parent) == [f"{code.path.name}/{name}" for name in contents(code.path)]


def test_launchers_at_once_leave_one_whole_copy(project, tmp_path):
    with get_context("spawn").Pool(4) as pool:
        found = pool.starmap(snapshot_code, [(tmp_path / "study", project)] * 16)
    assert len({code.path for code in found}) == 1
    assert [path.name for path in (tmp_path / "study" / "code").iterdir()] == [found[0].path.name]
    assert contents(found[0].path) == sorted([*COPIED, "code.json"])


def test_without_commits(tmp_path):
    write(tmp_path / "project", FILES)
    git(tmp_path / "project", "init", "-q")
    code = snapshot_code(tmp_path / "study", tmp_path / "project")
    assert (code.git_sha, code.dirty) == ("", True)
    assert [name for name in COPIED if name not in contents(code.path)] == []


@pytest.mark.parametrize("why", ["no git", "no checkout"])
def test_without_git(why, project, tmp_path, monkeypatch):
    with_git = snapshot_code(tmp_path / "study", project)
    write(project, {"adit_scale/__pycache__/model.pyc": "x", "adit_scale/.ipynb_checkpoints/a.py": "x"})
    if why == "no git":
        monkeypatch.setenv("PATH", str(tmp_path))
    else:
        shutil.rmtree(project / ".git")
    code = snapshot_code(tmp_path / "other", project)
    assert (code.tree, code.git_sha, code.dirty) == (with_git.tree, "", False)


def test_an_installation_gives_its_packages_alone(tmp_path):
    write(tmp_path / "site-packages", {**FILES, "torch/__init__.py": ""})
    (tmp_path / "site-packages" / "pyproject.toml").unlink()
    code = snapshot_code(tmp_path / "study", tmp_path / "site-packages")
    assert contents(code.path) == sorted(
        ["code.json", *(name for name in COPIED if name.startswith(PACKAGES))]
    )


def test_a_folder_that_cannot_be_written(project, tmp_path):
    (tmp_path / "study").write_text("a file")
    with pytest.raises(OSError, match="study"):
        snapshot_code(tmp_path / "study", project)


def test_this_project_is_copied_within_a_second(tmp_path):
    start = time.process_time()  # git's own share is milliseconds
    code = snapshot_code(tmp_path)
    assert time.process_time() - start < 1
    assert (code.path / "adit_scale" / "jobs" / "__main__.py").is_file()
    assert sum(path.stat().st_size for path in code.path.rglob("*")) < 20e6


def test_jobs_run_the_copy_whatever_is_installed_or_edited(tmp_path):
    project = tmp_path / "project"
    for name in PACKAGES:
        shutil.copytree(PROJECT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    edited = project / "adit_scale" / "jobs" / "node.py"
    edited.write_text(edited.read_text().replace("a folder that launch.py made", "a folder of this copy"))
    code = snapshot_code(tmp_path / "study", project)
    edited.write_text("raise SystemExit('edited after the submission')\n")

    def python(*arguments: str, cwd: Path = code.path) -> str:
        environment = os.environ | {"PYTHONPATH": str(code.path), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, *arguments]
        done = subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=60
        )
        return done.stdout + done.stderr

    assert "expected a folder of this copy" in python("-m", "adit_scale.jobs", str(tmp_path / "none"))
    where = "import adit_scale, launchers; print(adit_scale.__path__[0], launchers.__path__[0])"
    expected = [str(code.path / "adit_scale"), str(code.path / "launchers")]
    assert python("-c", where).split() == expected
    assert python("-c", where, cwd=tmp_path).split() == expected
