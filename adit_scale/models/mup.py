"""Maximal update parametrization (muP) of the denoiser: one learning rate for all widths.

Yang et al., arXiv 2203.03466, table 3 for Adam; for diffusion transformers arXiv 2505.15270. Widths are
counted from a base width, at which muP and the standard parametrization are the same network, bit for bit:

| role | weights | initial variance | learning rate |
|---|---|---|---|
| input | of a fixed number of features, and tables of labels | constant | lr |
| hidden | width to width | 1 / width | lr * base / width |
| output | width to a fixed number of features | zero | lr * base / width |
| vector | biases | zero | lr |

Scores of attention are scaled by 1 / D instead of D^-1/2 (``DenoiserConfig.base_head_width``). The zeros that
modulations and head start from are those of width without end. Depth is not covered: nothing here changes
with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

import torch

from adit_scale.models.dit import Denoiser

INPUT, HIDDEN, OUTPUT, VECTOR = "input", "hidden", "output", "vector"
# The first pattern that a parameter's name matches gives its role.
ROLES = (
    ("*.bias", VECTOR),
    ("input.weight", INPUT),
    ("time_embedding.fc1.weight", INPUT),
    ("domain_embedding.weight", INPUT),
    ("spacegroup_embedding.weight", INPUT),
    ("time_embedding.fc2.weight", HIDDEN),
    ("blocks.*.attention.qkv.weight", HIDDEN),
    ("blocks.*.attention.proj.weight", HIDDEN),
    ("blocks.*.mlp.fc?.weight", HIDDEN),
    ("blocks.*.modulation.weight", HIDDEN),
    ("final.modulation.weight", HIDDEN),
    ("final.head.weight", OUTPUT),
)


def role(name: str) -> str:
    """The role of a denoiser's parameter. Every parameter has one: KeyError otherwise."""
    for pattern, found in ROLES:
        if fnmatchcase(name, pattern):
            return found
    raise KeyError(name)


def lr_multipliers(names: Iterable[str], width: int, base_width: int) -> dict[str, float]:
    """What the learning rate of each parameter is multiplied with."""
    scaled = (HIDDEN, OUTPUT)
    return {name: base_width / width if role(name) in scaled else 1.0 for name in names}


@torch.no_grad()
def rescale_initial(network: Denoiser, base_width: int) -> None:
    """Bring freshly initialised weights to the variances of the table, in place.

    Most have them: Xavier's variance of hidden matrices falls as 1 / width, tables and ``time_embedding.fc1``
    are N(0, 0.02) at any width. Two have not: that of ``input`` falls with width, where it should be
    constant, and that of ``time_embedding.fc2`` is constant, where it should fall.
    """
    width, features = network.config.width, network.input.in_features
    network.input.weight.mul_(((features + width) / (features + base_width)) ** 0.5)
    network.time_embedding.fc2.weight.mul_((base_width / width) ** 0.5)
