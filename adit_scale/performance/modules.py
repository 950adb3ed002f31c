"""The denoiser's weights, module by module in the order of their use in a forward pass.

Kept beside models/dit.py by tests/performance/test_traffic.py, which compares it with the network itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from adit_scale.models.config import DenoiserConfig
from adit_scale.models.ladder import N_DOMAINS, N_SPACEGROUPS, TIME_FEATURES


@dataclass(frozen=True)
class Module:
    """numels: of its own parameters. begins: its input needs no gradient, so its backward has no end that
    autograd tells of."""

    name: str
    numels: tuple[int, ...]
    begins: bool = False


def denoiser_modules(config: DenoiserConfig) -> list[Module]:
    """All modules that hold parameters themselves."""
    d, hidden = config.width, config.mlp_ratio * config.width

    def linear(name: str, n_in: int, n_out: int, begins: bool = False) -> Module:
        return Module(name, (n_in * n_out, n_out), begins)

    found = [
        linear("time_embedding.fc1", TIME_FEATURES, d, begins=True),
        linear("time_embedding.fc2", d, d),
        Module("domain_embedding", (N_DOMAINS * d,), begins=True),
        Module("spacegroup_embedding", (N_SPACEGROUPS * d,), begins=True),
        linear("input", 2 * config.latent, d, begins=True),
    ]
    for i in range(config.depth):
        found += [
            linear(f"blocks.{i}.modulation", d, 6 * d),
            linear(f"blocks.{i}.attention.qkv", d, 3 * d),
            linear(f"blocks.{i}.attention.proj", d, d),
            linear(f"blocks.{i}.mlp.fc1", d, hidden),
            linear(f"blocks.{i}.mlp.fc2", hidden, d),
        ]
    return [*found, linear("final.modulation", d, 2 * d), linear("final.head", d, config.latent)]
