"""How much memory this process may take: of its GPU, or of the machine that it shares with other ranks."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import torch

CGROUPS = Path("/sys/fs/cgroup")
# (limit, used, word of memory.stat for pages that the kernel gives up by itself) of cgroups 2 and 1.
_CGROUP_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def usable_bytes(device: torch.device) -> int:
    """What this process holds and may still take: of the GPU, or of its equal share of what is free.

    On a CPU the ranks of a node (LOCAL_WORLD_SIZE) divide what the machine has free, or what the limits of
    their cgroups leave; a limit on the process's addresses (ulimit -v) is its own.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device)
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    shared = [_available(), *_cgroup_left(CGROUPS, Path("/proc/self/cgroup"))]
    own = [] if (left := _addresses_left()) is None else [left]
    return min([*(n // ranks for n in shared), *own])


def _available() -> int:
    """What programs can take without swapping; everything where /proc does not say."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.is_file():
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


def _addresses_left() -> int | None:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    statm = Path("/proc/self/statm")
    if limit == resource.RLIM_INFINITY or not statm.is_file():
        return None
    return max(0, limit - int(statm.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE"))


def _cgroup_left(root: Path, membership: Path) -> list[int]:
    """What each cgroup above this process that has a limit has left."""
    if not membership.is_file():
        return []
    left = []
    for line in membership.read_text().splitlines():
        _, controllers, inside = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        base = root / "memory" if controllers else root
        folder = base / inside.lstrip("/")
        for place in (folder, *folder.parents):
            if place.is_relative_to(base):
                left += _left_in(place)
    return left


def _left_in(folder: Path) -> list[int]:
    for limit, used, reclaimed in _CGROUP_FILES:
        if not (folder / limit).is_file() or not (folder / used).is_file():
            continue
        text = (folder / limit).read_text().strip()
        if text == "max":
            return []
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        held = int((folder / used).read_text()) - int(stat.get(reclaimed, 0))
        return [max(0, int(text) - held)]
    return []
