"""Seconds of a collective: latency and bandwidth of the ways that NCCL has, on a network of nodes.

W ranks on n nodes of g; S bytes of the whole; f = 2 for an all-reduce, else 1 (rings: Thakur and others,
doi:10.1177/1094342005051521). Inside a node every GPU sends f (g-1)/g S, and a node sends
f (n-1)/n S to the others over all its adapters; both flow at once, so the slower counts. A ring passes
f (W-1) hops, an all-reduce over trees 2 (log2 g + log2 n); the faster is taken, and gathers have rings alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from adit_scale.performance.constants import Network
from adit_scale.performance.traffic import ALL_REDUCE, Collective


def collective_s(collective: Collective, network: Network, world: int) -> float:
    """Of one call, all ranks arriving at once. Raises ConfigError where ranks do not fill their nodes."""
    if world == 1:
        return 0.0
    n = network.nodes(world)
    return network.call_s + latency_s(collective, network, world, n) + flow_s(collective, network, world, n)


def exchange_s(collectives: Iterable[Collective], network: Network, world: int) -> float:
    """Of all of them, one after the other: nothing overlaps with computing (``overlap_comm`` is off)."""
    return sum(c.count * collective_s(c, network, world) for c in collectives)


def latency_s(collective: Collective, network: Network, world: int, nodes: int) -> float:
    between = nodes if nodes > 1 else 0
    ring_s = collective.rounds * (
        (world - max(1, between)) * network.inside_hop_s + between * network.between_hop_s
    )
    if collective.kind != ALL_REDUCE:
        return ring_s
    a_node = world // nodes
    tree_s = math.ceil(math.log2(a_node)) * network.inside_hop_s
    tree_s += math.ceil(math.log2(nodes)) * network.between_hop_s
    return min(ring_s, 2 * tree_s)


def flow_s(collective: Collective, network: Network, world: int, nodes: int) -> float:
    a_node = world // nodes
    n_bytes = collective.rounds * collective.n_bytes / network.share_reached
    inside_s = (a_node - 1) / a_node * n_bytes / network.inside_bytes_per_s
    return max(inside_s, (nodes - 1) / nodes * n_bytes / network.between_bytes_per_s)
