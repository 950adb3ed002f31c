"""What devices and networks do, from ``constants.json``, which says of each number where it is from."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from adit_scale.errors import ConfigError

_FILE = Path(__file__).with_name("constants.json")
GIB = 2**30


@cache
def constants() -> dict[str, Any]:
    """The whole file."""
    return json.loads(_FILE.read_text())


@dataclass(frozen=True)
class Device:
    """gib: of memory. nvlink_bytes_per_s: one direction, to all GPUs of the node; 0 without it."""

    gib: float
    memory_bytes_per_s: float
    nvlink_bytes_per_s: float

    @property
    def usable_bytes(self) -> float:
        """Memory less what is kept for libraries and the allocator."""
        assumed = constants()["assumed"]
        return GIB * (self.gib * (1 - assumed["memory_reserve_share"]) - assumed["memory_reserve_gib"])


@dataclass(frozen=True)
class Network:
    """Bytes a second of one direction: of a GPU inside its node, of a whole node to the others.

    gpus_per_node: 0 for all ranks in one node. hop_s: of a message from a rank to the next. call_s: of the
    host, a collective. share_reached: of the two bandwidths, by large messages.
    """

    words: str
    gpus_per_node: int
    inside_bytes_per_s: float
    between_bytes_per_s: float
    inside_hop_s: float
    between_hop_s: float
    share_reached: float
    call_s: float

    def nodes(self, world: int) -> int:
        """Raises ConfigError where the ranks do not fill their nodes."""
        own = self.gpus_per_node
        if not own or world <= own:
            return 1
        if world % own:
            raise ConfigError(
                f"parallel.world_size is {world}, a node of budget.network has {own} GPUs; expected at most "
                f"{own} or a multiple of it, such as {math.ceil(world / own) * own}"
            )
        return world // own


NETWORKS = tuple(constants()["networks"])


def find_device(gpu: str) -> Device:
    """Of a name of training/peaks.py."""
    return Device(**constants()["devices"][gpu.lower()])


def find_network(name: str, gpu: str) -> Network:
    """A network as ``budget.network`` names it, between GPUs of a kind. Raises ConfigError."""
    if name not in NETWORKS:
        raise ConfigError(f"budget.network is {name!r}; expected one of {', '.join(NETWORKS)}")
    values = dict(constants()["networks"][name])
    if not values["inside_bytes_per_s"]:
        values["inside_bytes_per_s"] = find_device(gpu).nvlink_bytes_per_s
        if not values["inside_bytes_per_s"]:
            raise ConfigError(
                f"budget.network is {name}, and budget.gpu={gpu} has no NVLink to all GPUs of its node; "
                "expected budget.network=pcie"
            )
    return Network(**values, call_s=constants()["assumed"]["call_s"])


def free_network() -> Network:
    """Without bounds: what is left is not the network's."""
    return Network("no network", 0, math.inf, math.inf, 0.0, 0.0, 1.0, 0.0)
