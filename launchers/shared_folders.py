"""Whether a cluster's nodes will see a folder of this machine: by the kind of file system it lies on."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from adit_scale.errors import ConfigError

MOUNTS = Path("/proc/self/mountinfo")
# Kinds that live in one machine. All others (nfs, lustre, gpfs, beegfs, ceph, fuse.*, ...) pass: a kind not
# known here is more likely to be another network's than a disk's.
LOCAL = (
    "ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "jfs", "reiserfs", "bcachefs", "tmpfs", "ramfs",
    "devtmpfs", "overlay", "aufs", "squashfs", "vfat", "exfat", "ntfs", "ntfs3", "fuseblk", "rootfs",
)  # fmt: skip


def check_shared(places: Mapping[str, str], partitions: Collection[str], nodes: Callable[[], str]) -> None:
    """Raises ConfigError for the first place on a local file system while a node is another machine.

    places: setting -> folder or file. nodes: gives ``scontrol show node --oneliner``; asked only at need.
    """
    local = [(setting, place, kind) for setting, place in places.items() if (kind := local_kind(place))]
    elsewhere = _other_machine(partitions, nodes()) if local else None
    if elsewhere is None:
        return
    setting, place, kind = local[0]
    raise ConfigError(
        f"{setting}: {place} is on {kind}, a file system of this machine ({_short(socket.gethostname())}), "
        f"and jobs run on {elsewhere}; set {setting} to a folder that all nodes see, or "
        "launcher.runs_are_shared=true where they see this one"
    )


def local_kind(place: str) -> str | None:
    """The kind of file system of a path, or of where it will be; None where it is not a local one."""
    if "://" in place:
        return None
    kind = file_system(Path(place), MOUNTS.read_text() if MOUNTS.is_file() else "")
    return kind if kind in LOCAL else None


def file_system(path: Path, mounts: str) -> str:
    """Kind of file system that holds ``path``, by the lines of mountinfo(5); empty where none does."""
    real = os.path.realpath(path)
    best, kind = "", ""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        point = re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), before.split()[4])  # a space: \040
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):  # the last of two mounts on one place is the one seen
            best, kind = point, after.split()[0]
    return kind


def _other_machine(partitions: Collection[str], nodes: str) -> str | None:
    """A node of the partitions that is not this machine."""
    here = _short(socket.gethostname())
    for line in nodes.splitlines():
        fields = dict(word.split("=", 1) for word in line.split() if "=" in word)
        host = fields.get("NodeHostName", fields.get("NodeName", ""))
        member = set(fields.get("Partitions", "").split(",")) & set(partitions)
        if member and host and _short(host) != here:
            name = fields.get("NodeName", host)
            return name if name == host else f"{name} ({host})"
    return None


def _short(host: str) -> str:
    return host.partition(".")[0]
